"""The lineage of a profile: every asset, its inputs, and its recipe. Imports no Dagster.

The stages come from ``fer_assets.stages``; here they are resolved for one profile over one artifact
root: which targets there are, what each is made of, and which part of the profile decides it.
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
    """One thing to materialize: an asset, or one partition of it."""

    asset: str
    partition: str | None = None

    @property
    def label(self) -> str:
        """``asset`` or ``asset[partition]``."""
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
        """All stages by asset, in order."""
        claimed = claimed_assets(self.claims_file())
        return all_stages(Given(self.profile, claimed, reported_assets(self.report_template())))

    @cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of the profile's claims file; none when there is no readable file."""
        try:
            return read_claims(self.claims_file()).claims
        except FerError:
            return ()

    def stage(self, asset: str) -> Stage:
        """One stage; ``FerError`` names the known assets."""
        if asset not in self.stages:
            raise FerError(
                f"profile {self.profile.name} has no asset {asset!r}",
                code="unknown-asset",
                allowed=", ".join(self.stages),
            )
        return self.stages[asset]

    @property
    def shows_faces(self) -> bool:
        """Whether faces may be shown in Dagster: it would keep them in its event log."""
        return self.profile.drawn or self.settings.config.faces_in_ui

    def targets(self) -> Iterator[Target]:
        """Everything there is to materialize, in order; partitions of the profile only."""
        for stage in self.stages.values():
            if stage.partitions:
                yield from (Target(stage.asset, key) for key in self.partitions(stage))
            else:
                yield Target(stage.asset)

    def partitions(self, stage: Stage) -> list[str]:
        """The partitions of a stage, in order. Of adopted results only weights become models."""
        if stage.partitions != "adopted":
            return list(getattr(self.profile, str(stage.partitions)))
        names = self.store.pointers("adopted")
        if stage.asset == "adopted":
            return names
        artifacts = {name: self.store.current("adopted", name) for name in names}
        return [name for name, a in artifacts.items() if a and "best.pt" in a.record.files]

    @cached_property
    def dagster_stages(self) -> dict[str, Stage]:
        """The stages as Dagster shows them: without those that have no partition, as an input too.

        The store is asked once, since a code location loads with every page of every asset.
        *Materialize all* asks for a partition, and could not be pressed where there is none.
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
        """Whether a target is made with everything else, without being named.

        What is made on request only is wanted too where the report or a claim rests on it; what
        was adopted is there already.
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
        """Whether a target is meant by ``names``, as ``fer_assets.selection`` reads them."""
        from fer_assets.selection import read_selection

        return read_selection(self, names)

    def command(self, *, select: str | None = None, force: bool = False) -> str:
        """The ``fer materialize`` that makes this profile's selection, to be pasted."""
        # Without a name the command takes the default.
        named = self.profile.name != self.settings.profile
        parts = ["fer materialize", f"-p {self.profile.name}" if named else ""]
        parts += [f"--select {shlex.quote(select)}" if select else "", "--force" if force else ""]
        return " ".join(part for part in parts if part)

    def demo_video(self) -> Path:
        """The clip of the demo session."""
        if self.profile.demo.video is None:
            return self.store.root / SAMPLE_FOLDER / "video" / "demo.avi"
        return self.settings.project / Path(self.profile.demo.video).expanduser()

    def demo_session(self) -> Path | None:
        """The logged session that the profile imports, or ``None``."""
        session = self.profile.demo.session
        return None if session is None else self.settings.project / Path(session).expanduser()

    def model_path(self, name: str) -> Path:
        """Where a model from elsewhere lies."""
        if name not in self.profile.models:
            raise FerError(
                f"profile {self.profile.name} has no models.{name}",
                code="not-in-profile",
                allowed=", ".join(self.profile.models),
                fix=f"add models.{name} to the profile",
            )
        return self.settings.project / Path(self.profile.models[name]).expanduser()

    def claims_file(self) -> Path:
        """``claims/<profile>.yaml`` in the project."""
        return self.settings.project / "claims" / f"{self.profile.name}.yaml"

    def plan_file(self) -> Path:
        """``claims/<profile>.plan.md``: the comparisons, written down before the run."""
        return self.claims_file().with_suffix(".plan.md")

    def decisions(self) -> dict[str, str]:
        """Hashes of all recipes that a look at an evaluation set could inform, by their target."""
        hashes = {}
        for target in self.targets():
            stage = self.stage(target.asset)
            if (stage.group in DECIDING or stage.asset in DECIDING) and stage.asset not in TOLD:
                text = json.dumps(self.recipe(target), sort_keys=True)
                hashes[target.label] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return hashes

    def report_template(self) -> Path:
        """The project's own ``report/<profile>.md.j2`` where it is, else a built-in template."""
        from fer_ml.report.template import template_path  # jinja2: a trace needs none of it.

        return template_path(self.settings.project, self.profile.name)

    def raw_input(self, source: str) -> Input:
        """A raw folder as an input, by its fingerprint now."""
        ensure_raw(self.profile, self.store)
        root = raw_root(self.settings, self.profile, self.store, source)
        return Input(asset=f"raw/{source}", sha256=fingerprint(root), root=root.as_posix())

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the raw folders that are there, by asset. Makes nothing."""
        by_asset = {}
        for source in self.profile.sources:
            with contextlib.suppress(FerError):
                root = raw_root(self.settings, self.profile, self.store, source.name)
                by_asset[f"raw/{source.name}"] = fingerprint(root)
        return by_asset

    def needed(self, target: Target) -> list[Target]:
        """The inputs of a target, partitions spelled out.

        Those of an adopted result are what it was found to name by hash.
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
        """The gates of an asset, as the profile wants them.

        One that the profile does not have has its gates too, and no verdict on it counts.
        """
        stage = self.stages.get(asset)
        return gates_of(asset) if stage is None else stage.gates_by(self.profile)

    def counts(self, receipt: Receipt) -> bool:
        """Whether a verdict was given by the limits of today: of older ones they are not known."""
        stage = self.stages.get(receipt.asset)
        return stage is not None and receipt.judged_by == stage.limits(self.profile).recorded()

    def today(self, asset: str, partition: str | None) -> dict[str, Any] | None:
        """The recipe of what the profile makes; ``None`` for what it does not."""
        stage = self.stages.get(asset)
        made = stage and partition in (self.partitions(stage) if stage.partitions else [None])
        return self.recipe(Target(asset, partition)) if made else None

    def recipe(self, target: Target) -> dict[str, Any]:
        """What decides this target besides its inputs, as its record keeps it: JSON values."""
        stage = self.stage(target.asset)
        recipe = stage.recipe(self.profile, target.partition).recorded()
        files = stage.files(self, target.partition)
        json_values: dict[str, Any] = json.loads(json.dumps({**recipe, **files}))
        return json_values

    def code_version(self, stage: Stage) -> str:
        """The version of a stage's code and of the profile's part, of all its partitions."""
        # What was adopted is no part of the profile, and the store is not asked for a definition.
        of_profile = stage.partitions not in (None, "adopted")
        keys = self.partitions(stage) if of_profile else [None]
        recipes = [stage.recipe(self.profile, key).recorded() for key in keys]
        text = json.dumps(recipes, sort_keys=True)
        return f"{stage.code_version}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def claimed_assets(path: Path) -> frozenset[str]:
    """The assets and partitions that a claims file cites; none when there is no readable file.

    The graph must load without it: that the file is missing or wrong is said by ``report_claims``.
    """
    try:
        return read_claims(path).cited
    except FerError:
        return frozenset()


def reported_assets(path: Path) -> frozenset[str]:
    """The assets and partitions that a report's template refers to; none when it cannot be read.

    As with the claims file, what is wrong with it is said when the report is made.
    """
    from fer_ml.report.template import cited_assets, read_template

    try:
        return cited_assets(read_template(path))
    except FerError:
        return frozenset()
