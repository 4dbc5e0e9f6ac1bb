"""The lineage of a profile: every asset, its inputs and its recipe. Imports no Dagster.

The stages come from ``fer_assets.stages``. Here they are resolved for one profile over one artifact
root: which targets exist, their inputs, and the part of the profile that determines each.
"""

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_assets.stage import Given, Stage
from fer_assets.stages import all_stages, gates_of
from fer_ml.base.errors import FerError
from fer_ml.base.settings import Settings
from fer_ml.claims.model import Claim, read_claims
from fer_ml.recipes.profile import Profile
from fer_ml.recipes.training import Distilling
from fer_ml.sources.raw import SAMPLE_FOLDER, ensure_raw, fingerprint, raw_root
from fer_ml.storage.artifact import Demands
from fer_ml.storage.gates import Gate
from fer_ml.storage.record import Input, Receipt, asset_label
from fer_ml.storage.store import Store

if TYPE_CHECKING:
    from fer_assets.selection import Selection


#: Groups and assets whose recipes are decisions that a look at an evaluation set could inform.
DECIDING = frozenset(
    {"manifests", "folds", "teachers", "distillation", "students", "experiments", "comparisons"}
    | {"benchmark", "student_selection"}
)
#: Those among them that only tell something.
TOLD = frozenset({"manifest_validation", "label_review", "prediction_review"})


@dataclass(frozen=True)
class Target:
    """One thing that can be materialized: an asset, or one partition of it."""

    asset: str
    partition: str | None = None

    @property
    def label(self) -> str:
        """Return ``asset`` or ``asset[partition]``."""
        return asset_label(self.asset, self.partition)


@dataclass(frozen=True)
class Lineage:
    """The lineage of one profile over one artifact root."""

    settings: Settings
    profile: Profile
    store: Store

    def __post_init__(self) -> None:
        # Whoever gets an artifact by way of this lineage is held to its gates and limits.
        store = replace(self.store, demands=Demands(self.gates, self.counts, recipe=self.today))
        object.__setattr__(self, "store", store)

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """All stages by asset, in order of dependency."""
        claimed = claimed_assets(self.claims_file())
        return all_stages(Given(self.profile, claimed, reported_assets(self.report_template())))

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of the profile's claims file; empty without a readable file."""
        try:
            return read_claims(self.claims_file()).claims
        except FerError:
            return ()

    def stage(self, asset: str) -> Stage:
        """Return the stage of an asset; ``FerError`` for an unknown one lists the known assets."""
        if asset not in self.stages:
            raise FerError(
                f"profile {self.profile.name} has no asset {asset!r}",
                code="unknown-asset",
                allowed=", ".join(self.stages),
            )
        return self.stages[asset]

    @property
    def shows_faces(self) -> bool:
        """Whether Dagster may show faces; it would store them in its event log."""
        return self.profile.drawn or self.settings.config.faces_in_ui

    def targets(self) -> Iterator[Target]:
        """Yield every target in order of dependency, with partitions of the profile only."""
        for stage in self.stages.values():
            if stage.partitions:
                yield from (Target(stage.asset, key) for key in self.partitions(stage))
            else:
                yield Target(stage.asset)

    def partitions(self, stage: Stage) -> list[str]:
        """Return the partitions of a stage in order; only adopted weights become models."""
        if stage.partitions != "adopted":
            return list(getattr(self.profile, str(stage.partitions)))
        names = self.store.pointers("adopted")
        if stage.asset == "adopted":
            return names
        artifacts = {name: self.store.current("adopted", name) for name in names}
        return [name for name, a in artifacts.items() if a and "best.pt" in a.record.files]

    @cached_property
    def dagster_stages(self) -> dict[str, Stage]:
        """The stages as Dagster shows them: those with no partition are left out, also as inputs.

        *Materialize all* asks for a partition, so Dagster cannot use a stage that has none. The
        store is queried once, because Dagster loads the code location for every asset page.
        """
        stages = {asset: stage for asset, stage in self.stages.items() if self._has_any(stage)}
        return {
            name: replace(stage, needs=tuple(need for need in stage.needs if need.asset in stages))
            for name, stage in stages.items()
        }

    def _has_any(self, stage: Stage) -> bool:
        if stage.partitions is None:
            return True
        try:
            return bool(self.partitions(stage))
        except (FerError, OSError):  # The code location loads where the store does not answer.
            return True

    def standard(self, target: Target) -> bool:
        """Whether a target is made by default, without being selected by name.

        A target that is otherwise made on request only is included if the report or a claim needs
        it. An adopted result is not: it exists already.
        """
        stage = self.stage(target.asset)
        if not stage.on_request or stage.partitions == "adopted":
            return not stage.on_request
        return target in self._above(Target("report"))

    def _above(self, target: Target) -> set[Target]:
        targets: set[Target] = set()
        left = [target]
        while left:
            new = [need for need in self.needed(left.pop()) if need not in targets]
            targets.update(new)
            left += new
        return targets

    def named(self, names: str) -> "Selection":
        """Parse ``names`` into a selection of targets, as ``fer_assets.selection`` does."""
        from fer_assets.selection import read_selection

        return read_selection(self, names)

    def command(self, *, select: str | None = None, force: bool = False) -> str:
        """Return the ``fer materialize`` command line for this profile and selection."""
        # Without a name the command takes the default.
        named = self.profile.name != self.settings.profile
        parts = ["fer materialize", f"-p {self.profile.name}" if named else ""]
        parts += [f"--select {shlex.quote(select)}" if select else "", "--force" if force else ""]
        return " ".join(part for part in parts if part)

    def demo_video(self) -> Path:
        """The video clip of the demo session."""
        if self.profile.demo.video is None:
            return self.store.root / SAMPLE_FOLDER / "video" / "demo.avi"
        return self.settings.project / Path(self.profile.demo.video).expanduser()

    def demo_session(self) -> Path | None:
        """The recorded session that the profile imports, or ``None``."""
        session = self.profile.demo.session
        return None if session is None else self.settings.project / Path(session).expanduser()

    def model_path(self, name: str) -> Path:
        """Return the path of an external model."""
        if name not in self.profile.models:
            raise FerError(
                f"profile {self.profile.name} has no models.{name}",
                code="not-in-profile",
                allowed=", ".join(self.profile.models),
                fix=f"add models.{name} to the profile",
            )
        return self.settings.project / Path(self.profile.models[name]).expanduser()

    def claims_file(self) -> Path:
        """The claims file, ``claims/<profile>.yaml`` in the project."""
        return self.settings.project / "claims" / f"{self.profile.name}.yaml"

    def plan_file(self) -> Path:
        """The plan of comparisons, ``claims/<profile>.plan.md``, written before the run."""
        return self.claims_file().with_suffix(".plan.md")

    def decisions(self) -> dict[str, str]:
        """Hashes, by target, of recipes that results on an evaluation set could influence."""
        hashes = {}
        for target in self.targets():
            stage = self.stage(target.asset)
            if (stage.group in DECIDING or stage.asset in DECIDING) and stage.asset not in TOLD:
                text = json.dumps(self.recipe(target), sort_keys=True)
                hashes[target.label] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return hashes

    def report_template(self) -> Path:
        """The project's ``report/<profile>.md.j2`` if it exists, else a built-in template."""
        from fer_ml.report.template import template_path  # jinja2: a trace needs none of it.

        return template_path(self.settings.project, self.profile.name)

    def raw_input(self, source: str) -> Input:
        """Return a raw folder as an input, with its current fingerprint."""
        ensure_raw(self.profile, self.store)
        root = raw_root(self.settings, self.profile, self.store, source)
        return Input(asset=f"raw/{source}", sha256=fingerprint(root), root=root.as_posix())

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of existing raw folders by asset. Makes nothing."""
        by_asset = {}
        for source in self.profile.sources:
            with contextlib.suppress(FerError):
                root = raw_root(self.settings, self.profile, self.store, source.name)
                by_asset[f"raw/{source.name}"] = fingerprint(root)
        return by_asset

    def needed(self, target: Target) -> list[Target]:
        """Return the inputs of a target, with every partition listed.

        Inputs of an adopted result are the artifacts whose hashes its files name.
        """
        artifact = (
            self.store.current("adopted", target.partition) if target.asset == "adopted" else None
        )
        targets = [Target(i.asset, i.partition) for i in artifact.record.inputs] if artifact else []
        for need in self.stage(target.asset).needs:
            if need.partition == "folds":
                targets += [
                    Target(need.asset, name)
                    for name, (teacher, _) in self.profile.folds.items()
                    if teacher == target.partition
                ]
            elif need.partition == "named":
                # A claim may name an unknown partition: it says so when it is resolved.
                known = self.partitions(self.stage(need.asset))
                targets += [Target(need.asset, key) for key in need.keys if key in known]
            elif need.partition == "each":
                keys = self.partitions(self.stage(need.asset))
                targets += [Target(need.asset, key) for key in keys]
            elif need.partition != "distilled" or self._distils(target):
                same = target.partition if need.partition == "same" else None
                targets.append(Target(need.asset, same))
        return targets

    def _distils(self, target: Target) -> bool:
        training = self.profile.experiments.get(str(target.partition))
        return training is not None and isinstance(training.task, Distilling)

    def gates(self, asset: str) -> tuple[Gate, ...]:
        """Return the gates of an asset, with the profile's choice of which of them block.

        An asset that the profile does not have has gates too, but no verdict on it counts.
        """
        stage = self.stages.get(asset)
        return gates_of(asset) if stage is None else stage.gates_by(self.profile)

    def counts(self, receipt: Receipt) -> bool:
        """Whether a verdict was given under today's limits; older receipts record no limits."""
        stage = self.stages.get(receipt.asset)
        return stage is not None and receipt.judged_by == stage.limits(self.profile).recorded()

    def today(self, asset: str, partition: str | None) -> dict[str, Any] | None:
        """Return the current recipe of an asset; ``None`` if the profile does not make it."""
        stage = self.stages.get(asset)
        made = stage and partition in (self.partitions(stage) if stage.partitions else [None])
        return self.recipe(Target(asset, partition)) if made else None

    def recipe(self, target: Target) -> dict[str, Any]:
        """Return everything besides the inputs that determines a target, as JSON values."""
        stage = self.stage(target.asset)
        recipe = stage.recipe(self.profile, target.partition).recorded()
        files = stage.files(self, target.partition)
        json_values: dict[str, Any] = json.loads(json.dumps({**recipe, **files}))
        return json_values

    def code_version(self, stage: Stage) -> str:
        """Return the version of a stage's code and of the profile fields of all partitions."""
        # What was adopted is no part of the profile, and the store is not asked for a definition.
        of_profile = stage.partitions not in (None, "adopted")
        keys = self.partitions(stage) if of_profile else [None]
        recipes = [stage.recipe(self.profile, key).recorded() for key in keys]
        text = json.dumps(recipes, sort_keys=True)
        return f"{stage.code_version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def claimed_assets(path: Path) -> frozenset[str]:
    """Return the assets and partitions that a claims file cites; empty without a readable file.

    The graph must load without the file; ``report_claims`` reports a missing or invalid one.
    """
    try:
        return read_claims(path).cited
    except FerError:
        return frozenset()


def reported_assets(path: Path) -> frozenset[str]:
    """Return the assets and partitions that a report template refers to; empty if unreadable.

    An invalid template is reported when the report is made.
    """
    from fer_ml.report.template import cited_assets, read_template

    try:
        return cited_assets(read_template(path))
    except FerError:
        return frozenset()
