"""The types with which a stage is declared. Imports no Dagster.

Each module of ``fer_assets.stages`` declares one stage, or a family of similar stages: recipe,
inputs, the function that makes it, its gates, and the function that judges them.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from fer_ml.base.errors import FerError
from fer_ml.base.settings import Settings
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.profile import Profile
from fer_ml.recipes.training import Training
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

#: Pools of Dagster's, with one place each: a training has the GPU, and decoding all cores.
TRAINING, DECODING = "training", "decoding"


@dataclass(frozen=True)
class Group:
    """A group of assets that one job makes, in order of dependency."""

    name: str
    job: str
    does: str


#: Each group follows what it needs.
GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group("manifests", "data", "Clean, unify, curate and validate all manifests."),
        Group("folds", "folds", "Train one backbone without one fold of the training rows."),
        Group("teachers", "teachers", "Train one backbone and compute its logits."),
        Group("distillation", "distillation", "Fuse the teachers and export soft labels."),
        Group("students", "students", "Train CE, KD and DKD."),
        Group("experiments", "experiments", "Train one recipe of the profile's experiments."),
        Group("models", "models", "Import one model from elsewhere."),
        Group(
            "adopted",
            "adoption",
            "Measure or export an adopted run, or examine an adopted result again.",
        ),
        Group(
            "evaluation",
            "evaluation",
            "Score every model, run every student in the demo, select one.",
        ),
        Group("comparisons", "comparisons", "Compare experiments at equal budget and seeds."),
        Group("deployment", "deployment", "Export the bundle and run the demo session."),
        Group("report", "reporting", "Resolve the claims and render the report."),
    )
}


@dataclass(frozen=True)
class Recipe:
    """The fields of a profile that determine a stage's result, and no others.

    This base class has no fields; it is for stages that no profile field determines.
    """

    def recorded(self) -> dict[str, Any]:
        """Return the recipe as JSON values, as the artifact's record stores it."""
        values = {each.name: _plain(getattr(self, each.name)) for each in fields(self)}
        json_values: dict[str, Any] = json.loads(json.dumps(values))
        return json_values


@dataclass(frozen=True)
class Limits(Recipe):
    """The profile fields that a stage's verdicts depend on; this base class has none."""


def _plain(value: Any) -> Any:
    """Return a field's value for JSON, in the form that its own type is recorded in."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Training):
        return value.recorded()
    if isinstance(value, Preprocess):
        return value.plain()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value


@dataclass(frozen=True)
class Need:
    """An input: an asset, and which of its partitions.

    ``one``: unpartitioned. ``same``: the consumer's partition. ``each``: all partitions. ``named``:
    those in ``keys``. ``folds``: the folds of the consumer's teacher. ``distilled``: unpartitioned,
    and only for partitions that learn from a teacher.
    """

    asset: str
    partition: Literal["one", "same", "each", "named", "folds", "distilled"] = "one"
    keys: tuple[str, ...] = ()


def needs(*assets: str) -> tuple[Need, ...]:
    """Return unpartitioned inputs."""
    return tuple(Need(asset) for asset in assets)


@dataclass(frozen=True)
class Given:
    """Everything from which the stages of a project are derived.

    ``claimed`` are the assets and partitions that the claims file cites. ``reported`` are those
    that the report template refers to besides the claims.
    """

    profile: Profile
    claimed: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()


class Surroundings(Protocol):
    """Locations of files outside the store that determine a result; ``Lineage`` implements it."""

    @property
    def settings(self) -> Settings:
        """The settings of this machine."""
        ...

    @property
    def profile(self) -> Profile:
        """The profile that the stages belong to."""
        ...

    @property
    def store(self) -> Store:
        """The artifact root."""
        ...

    def claims_file(self) -> Path:
        """The profile's claims file."""
        ...

    def report_template(self) -> Path:
        """The template of the report."""
        ...

    def plan_file(self) -> Path:
        """The written plan of the comparisons; the file may be missing."""
        ...

    def demo_video(self) -> Path:
        """The clip on which the demo is measured."""
        ...

    def demo_session(self) -> Path | None:
        """The imported session that replaces the clip, if the profile names one."""
        ...

    def model_path(self, name: str) -> Path:
        """Return the folder of an external model of the profile."""
        ...


def _no_limits(profile: Profile) -> Any:
    return Limits()


def _nothing_judged(artifact: Artifact, store: Store, limits: Any) -> list[Outcome]:
    return []


@dataclass(frozen=True)
class Stage:
    """The declaration of one asset.

    ``recipe`` selects the profile fields that determine the result (of one partition); a change
    makes the asset stale. ``files`` returns hashes, by meaning, of other files outside the store
    that do. ``build`` gets exactly these and the gated inputs. ``limits`` selects the profile
    fields that the verdicts depend on; a change invalidates them. Increase ``code_version`` when
    the same inputs and recipe would give another result. ``partitions`` is the profile's table
    whose keys are the partitions, or ``adopted`` for the results adopted so far. ``on_request``
    stages are made only when selected. ``cites`` are assets and partitions that become inputs,
    however they are partitioned. ``part`` describes the asset in a packed job
    (``fer_ml.runs.parts``). ``module`` is the declaring module, set when it is found. ``looks``:
    the result shows numbers on evaluation sets, which the ledger records. ``fresh_hours`` is the
    age at which the UI warns; twice that age is a failure. ``holds`` describes each file of the run
    directory and its keys; ``<...>`` stands for a name.
    """

    asset: str
    group: str
    kinds: tuple[str, ...]
    describe: str
    build: Callable[[RunFolder, Job[Any]], None]
    needs: tuple[Need, ...] = ()
    recipe: Callable[[Profile, str | None], Recipe] = lambda profile, partition: Recipe()
    files: Callable[[Surroundings, str | None], dict[str, Any]] = lambda around, partition: {}
    gates: tuple[Gate, ...] = ()
    judge: Callable[[Artifact, Store, Any], list[Outcome]] = _nothing_judged
    limits: Callable[[Profile], Any] = _no_limits
    raw: str | None = None
    partitions: Literal["teachers", "folds", "experiments", "models", "adopted"] | None = None
    code_version: str = "1"
    pool: str | None = None
    on_request: bool = False
    fresh_hours: int | None = None
    cites: frozenset[str] = frozenset()
    part: Callable[[Job[Any]], Any] | None = None
    module: str = ""
    looks: bool = False
    holds: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = [gate.rule for gate in self.gates]
        if len(set(rules)) < len(rules):
            raise FerError(
                f"{self.asset} declares a gate twice: {', '.join(rules)}",
                code="duplicate-gate",
                fix="rename one of them",
            )

    def gates_by(self, profile: Profile) -> tuple[Gate, ...]:
        """Return the gates, with the profile's choice of which of them block and which warn."""
        limits = self.limits(profile)
        return tuple(
            replace(gate, blocking=getattr(limits, gate.blocks_with)) if gate.blocks_with else gate
            for gate in self.gates
        )


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """Sort the stages by group, each after its inputs, and otherwise in the given order.

    Raises ``FerError`` if there is no such order.
    """
    places = {name: place for place, name in enumerate(GROUPS)}
    left = list(stages)
    for stage in left:
        if stage.group not in places:
            raise FerError(
                f"{stage.asset} names an unknown group {stage.group!r}",
                code="unknown-group",
                allowed=", ".join(places),
            )
    left.sort(key=lambda stage: places[stage.group])
    made: list[Stage] = []
    while left:
        waiting = {stage.asset for stage in left}
        free = next((s for s in left if not any(n.asset in waiting for n in s.needs)), None)
        if free is None:
            raise FerError(
                f"the needs of these stages form a cycle: {', '.join(sorted(waiting))}",
                code="stage-cycle",
                where="fer_assets.stages",
                fix="remove one of the needs",
            )
        left.remove(free)
        made.append(free)
    for before, after in pairwise(made):
        if places[after.group] < places[before.group]:
            raise FerError(
                f"{after.asset} of group {after.group} needs an asset of a later group",
                code="group-order",
                where=f"groups in their order: {', '.join(places)}",
                fix="declare it in the group of what it needs, or in a later one",
            )
    return made
