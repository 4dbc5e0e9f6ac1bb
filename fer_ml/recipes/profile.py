"""Profiles: typed recipes for a whole run, from the sources to the claims.

A profile is a function that returns one frozen value; a variant changes a few fields. Every
artifact records the part of the profile that made it, so that a changed field makes exactly the
assets stale that depend on it.
"""

import re
from dataclasses import fields
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES, EXCLUSIONS
from fer_ml.base.names import require_names
from fer_ml.base.plain import Plain
from fer_ml.recipes.preprocess import FRAMES, Frame, Preprocess
from fer_ml.recipes.training import Distilling, Training, Views

Split = Literal["train", "val", "calib", "test"]
#: The splits that an adapter gives: those of publishers, and none.
PUBLISHED = ("train", "val", "test", "unassigned")
SPLITS: tuple[Split, ...] = ("train", "val", "calib", "test")
BACKBONES: dict[str, str] = {
    "RN18": "resnet18",
    "B3": "tf_efficientnet_b3",
    "CNXT": "convnext_tiny",
}
STUDENTS: tuple[str, ...] = ("ce", "kd", "dkd")
#: Of a profile that names no other.
SEED = 1337
#: The assets of the students. The first one is the incumbent, which the others have to beat.
CANDIDATES: tuple[str, ...] = tuple(f"student_{stage}" for stage in STUDENTS)


#: The val rows that trainings and students are selected on; any other set is of test rows.
VAL_SET = "hq_train_val"
_CURATED = ("hq_train", "eval_only", "test_all_sources")
#: Names that a curation of the user's own must not have: other manifests and evaluation sets.
_TAKEN = (*_CURATED, "classification", VAL_SET)


class Frozen(Plain):
    """A recipe's base: immutable, unknown keys refused."""

    model_config = ConfigDict(allow_inf_nan=False)


class Source(Frozen):
    """One raw dataset: how it is called in manifests, where it lies, and what its files mean."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Value of the manifest's column `source`."""
    adapter: str
    """What reads the publisher's files: [data](data.md)."""
    title: str = ""
    """Name for people."""
    root: str | None = None
    """Its folder; null: that of `[roots]` in fer.toml, or else `data/<name>` in the project."""
    splits: dict[str, Split] = {}
    """By the publisher's split: ours, where they differ."""
    options: dict[str, str] = {}
    """Options of the adapter."""
    labels: dict[str, str] = {}
    """By the publisher's label, in place of the adapter's: a class, or a reason to leave it out."""

    @model_validator(mode="after")
    def _consistent(self) -> "Source":
        for theirs, ours in self.splits.items():
            if theirs not in PUBLISHED:
                raise ValueError(f"splits.{theirs}: adapters know the splits {list(PUBLISHED)}")
            if theirs == ours:
                raise ValueError(f"splits.{theirs}: it is that already, so this does nothing")
        allowed = (*CLASSES, *EXCLUSIONS)
        for label, meaning in self.labels.items():
            if meaning not in allowed:
                raise ValueError(f"labels.{label}: {meaning!r} is none of {list(allowed)}")
        return self


class Draw(Frozen):
    """Fractions that are drawn by group and class where the publisher gives no split."""

    val: float = Field(default=0.1, gt=0, lt=1)
    """Of train, for sources without a val part."""
    calib: float = Field(default=0.4, gt=0, lt=1)
    """Of val."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Of sources with no split at all."""


class Near(Frozen):
    """Least correlations at which two faces are copies of one photo (``fer_ml.manifests.near``)."""

    code: float = Field(default=0.64, gt=0, le=1)
    """Of codes that tell faces apart."""
    view: float = Field(default=0.8, gt=0, le=1)
    """Of coarse views."""
    detail: float = Field(default=0.88, gt=0, le=1)
    """Of fine detail, once one face lies on the other."""
    grey: float = Field(default=0.98, gt=0, le=1)
    """Of the 24x24 greys as they lie, in place of `view` and `detail`."""


#: Drawn faces share their maker's few shapes: what makes photos copies does not make these ones.
DRAWN_NEAR = Near(code=0.9, view=0.95, detail=0.97)


class Curation(Frozen):
    """A curated manifest: which rows of the unified one it takes."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Sources whose rows it takes, in the order of precedence."""
    splits: tuple[Split, ...] = SPLITS
    """Splits whose rows it takes."""
    labels: tuple[str, ...] = ()
    """Classes whose rows it takes; empty: all."""
    min_confidence: dict[str, float] = {}
    """By source: the least confidence, in the publisher's unit."""
    min_side: int = Field(default=0, ge=0)
    """Least length in px of the face's shorter side."""
    one_per: Literal["row", "sample", "group"] = "row"
    """Keeps the first row of each sample, or of each group (near-identical faces too)."""
    drop_twins: bool = False
    """Leaves out test rows of which publishers have a twin in another split."""

    @model_validator(mode="after")
    def _consistent(self) -> "Curation":
        unknown = set(self.labels) - set(CLASSES)
        if unknown:
            raise ValueError(f"labels: {sorted(unknown)} are not among {list(CLASSES)}")
        if self.drop_twins and "test" not in self.splits:
            raise ValueError("drop_twins: it leaves out test rows, and splits has no test")
        return self


class Ensemble(Frozen):
    """How teachers are fused."""

    fusion: Literal["logits", "probabilities", "calibrated"] = "calibrated"
    """What is averaged; `calibrated`: logits that each teacher's temperature divides."""
    weights: tuple[float, ...] | Literal["interim_report"] | None = None
    """One for each teacher; null searches on calib; `interim_report`: 0.4, 0.4, 0.2."""
    step: float = Field(default=0.1, gt=0, le=0.5)
    """Step of the searched grid, before a convex fit of the NLL (not of `probabilities`)."""


class SoftLabels(Frozen):
    """How the teachers label the training rows."""

    target_entropy: float = Field(default=1.0, gt=0, lt=1.9)
    """Mean entropy in nats of the softened labels, which decides the KD temperature."""
    folds: int = Field(default=0, ge=0, le=20)
    """Parts of the training rows, each labelled by teachers trained on the others; 0: in-sample."""
    views: int = Field(default=0, ge=0, le=1000)
    """Augmented views of each row that are labelled, as `students.kd` augments; 0: the centre."""


class Selection(Frozen):
    """Limits of the dual gate that a student must pass to replace the first one."""

    macro_f1_loss: float = Field(default=0.01, ge=0, le=1)
    """Macro-F1 that it may lose on val."""
    weakest_f1_loss: float = Field(default=0.02, ge=0, le=1)
    """Mean F1 of the three weakest classes that it may lose on val."""
    flips_gain: float = Field(default=0.1, ge=0)
    """Share by which flips a minute may rise on the demo session."""
    least_seconds: float = Field(default=60.0, ge=0)
    """Seconds of faces below which the session decides nothing."""
    least_events: int = Field(default=10, ge=0)
    """Expressions (for F1) and flips (for their rate) below which the session decides nothing."""


class Demo(Frozen):
    """The demo session: a video and a face detector."""

    video: str | None = None
    """The video; null: the one that the sample draws."""
    detector: Literal["haar", "yunet"] = "yunet"
    """What finds faces."""
    session: str | None = None
    """Folder of a recorded session, which is replayed through the deployed student instead."""
    p95_limit_ms: float = Field(default=100.0, gt=0)
    """What 95 of 100 frames may take; 33 keeps up with 30 frames a second."""
    p95_blocks: bool = False
    """A slower machine blocks; else it is warned of."""
    frames: dict[str, Frame] = FRAMES
    """By detector: the square that its box stands for, for the cards of bundles."""


#: What no comparison may let vary: with more steps or more rows a step, any method looks better.
BUDGET = ("epochs", "batch_size", "accumulate", "first_stage")


class Comparison(Frozen):
    """A fair comparison of trainings that are one recipe over the same seeds.

    Arms may differ in their task and in what ``varies`` names, in nothing else, and never in the
    budget. A training is an experiment or a student.
    """

    arms: dict[str, tuple[str, ...]] = Field(min_length=2)
    """By arm: its trainings. In an order in which each changes one thing they are an ablation."""
    baseline: str
    """The arm that the others are compared with."""
    varies: tuple[str, ...] = ()
    """Fields of a training that may differ, besides its task."""
    evaluation: str = "test_all_sources"
    """Evaluation set of the benchmark on which they are compared."""
    rows: Literal["official", "deduplicated"] = "official"
    """Rows of the set."""
    seeds: int = Field(default=3, ge=1)
    """Least number of seeds an arm; with fewer than 3 an interval knows nothing of luck."""


class Profile(Frozen):
    """Everything that decides a run. See ``sample``, ``ferplus`` and ``paper`` of ``builtin``."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the profile, and of its folder."""
    seed: int = Field(default=SEED, ge=0, lt=2**63, strict=True)
    """Seed of splits and trainings."""
    drawn: bool = False
    """The sources are drawn by the project itself."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Raw datasets."""
    near: Near | None = None
    """When two faces are copies; null: limits for photos, or for drawn faces."""
    draw: Draw = Draw()
    """Fractions of drawn splits."""
    hq_train: Curation
    """Manifest for training, selecting and calibrating."""
    eval_only: Curation
    """Manifest of sources set apart for evaluation."""
    test_all_sources: Curation
    """Manifest of the mixed benchmark."""
    curations: dict[str, Curation] = {}
    """By name: manifests of your own, each an asset `<name>_manifest`."""
    preprocess: Preprocess
    """How a face becomes an input."""
    teachers: dict[str, Training]
    """By `RN18`, `B3` or `CNXT`: the teachers."""
    ensemble: Ensemble = Ensemble()
    """How teachers are fused."""
    calibration: Literal["temperature", "vector"] = "temperature"
    """`vector` shows a vector scaling of each model beside its temperature."""
    softlabels: SoftLabels = SoftLabels()
    """How teachers label."""
    students: dict[str, Training]
    """`ce`, `kd` and `dkd`, in this order."""
    experiments: dict[str, Training] = {}
    """By name: further trainings, each a partition of `student_experiment`."""
    models: dict[str, str] = {}
    """By name: a bundle's folder, a `.pt` or an `.onnx` that the benchmark measures too."""
    comparisons: dict[str, Comparison] = {}
    """By name: trainings that are compared, each an asset `comparison/<name>`."""
    selection: Selection = Selection()
    """Limits of the dual gate."""
    demo: Demo = Demo()
    """The demo session."""
    floor_macro_f1: float = Field(default=0.143, ge=0, le=1)
    """Least macro-F1 of each training and student, above a guesser's as well; 0 asks neither."""

    @property
    def near_rule(self) -> Near:
        """``near``, or else the one for drawn faces or for photos."""
        return self.near or (DRAWN_NEAR if self.drawn else Near())

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"sources: a name stands twice in {names}")
        for table, used in {"profiles": (self.name,), "sources": names, **self._tables}.items():
            require_names(table, used)
        self._check_curations(names)
        self._check_trainings()
        self._check_soft_labels()
        for table in ("experiments", "models", "comparisons"):
            for name in getattr(self, table):
                if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                    raise ValueError(f"{table}.{name}: a name in letters, digits and _")
        for name, comparison in self.comparisons.items():
            self._check_comparison(f"comparisons.{name}", comparison)
        rooted = [source.name for source in self.sources if self.drawn and source.root]
        if rooted:
            raise ValueError(f"sources: root of {rooted} does nothing, since the profile is drawn")
        if not self.drawn and self.demo.video is None:
            raise ValueError("demo.video: name a clip; only a drawn profile brings its own")
        self._check_ensemble()
        return self

    def _check_curations(self, names: list[str]) -> None:
        for name, curation in self.curated.items():
            for field in ("sources", "min_confidence"):
                unknown = set(getattr(curation, field)) - set(names)
                if unknown:
                    raise ValueError(f"{name}.{field}: {sorted(unknown)} are not among {names}")
            idle = set(curation.min_confidence) - set(curation.sources)
            if idle:
                raise ValueError(
                    f"{name}.min_confidence: {sorted(idle)} are not among its sources, so it does "
                    "nothing for them"
                )
        for name in self.curations:
            if not re.fullmatch(r"[a-z0-9_]+", name) or name in _TAKEN:
                raise ValueError(f"curations.{name}: a new name in a-z, 0-9 and _")

    def _check_trainings(self) -> None:
        if not self.teachers or set(self.teachers) - set(BACKBONES):
            raise ValueError(f"teachers: keys must be some of {list(BACKBONES)}")
        if tuple(self.students) != STUDENTS:
            raise ValueError(f"students: keys must be {list(STUDENTS)}, in this order")
        alone = {"students.ce": self.students["ce"], **_named("teachers", self.teachers)}
        for name, training in {**alone, **_named("experiments", self.experiments)}.items():
            if training.stages()[0].init == "previous":
                raise ValueError(f"{name}.init: there is no training before it")
        for name, training in _named("teachers", self.teachers).items():
            if training.size not in (None, self.preprocess.size):
                raise ValueError(
                    f"{name}.size is {training.size}: teachers label the profile's faces, of "
                    f"{self.preprocess.size} px; set preprocess.size, or make it an experiment"
                )

    def _check_ensemble(self) -> None:
        parts = 1 / self.ensemble.step
        if abs(parts - round(parts)) > 1e-9:
            raise ValueError(f"ensemble.step: {self.ensemble.step} does not divide 1")
        weights = self.ensemble.weights
        if isinstance(weights, str) and set(self.teachers) != set(BACKBONES):
            raise ValueError(f"ensemble.weights: {weights} is for {list(BACKBONES)}")
        if isinstance(weights, tuple) and len(weights) != len(self.teachers):
            raise ValueError(f"ensemble.weights: one for each of {list(self.teachers)}")

    @property
    def _tables(self) -> dict[str, dict[str, Any]]:
        """The tables whose keys name folders."""
        names = ("curations", "experiments", "models", "comparisons")
        return {name: getattr(self, name) for name in names}

    def _check_comparison(self, where: str, comparison: Comparison) -> None:
        arms, known = comparison.arms, {field.name for field in fields(Training)}
        if comparison.baseline not in arms:
            raise ValueError(f"{where}.baseline: one of {list(arms)}")
        wrong = (set(comparison.varies) - known) | ({*BUDGET, "seed"} & set(comparison.varies))
        if wrong:
            raise ValueError(
                f"{where}.varies: {sorted(wrong)} cannot vary; fields of a training can,"
                f" but not its seed or its budget {list(BUDGET)}"
            )
        sets = [VAL_SET, *self.tested]
        if comparison.evaluation not in sets:
            raise ValueError(f"{where}.evaluation: one of {sets}")
        known_trainings = {*self.experiments, *(f"student_{stage}" for stage in STUDENTS)}
        missing = {name for arm in arms.values() for name in arm} - known_trainings
        if missing:
            raise ValueError(f"{where}.arms: no experiments {sorted(missing)}")
        seeds = {arm: self._seeds(names) for arm, names in arms.items()}
        first = next(iter(seeds))
        for arm, numbers in seeds.items():
            twice = next((seed for seed in numbers if numbers.count(seed) > 1), None)
            if twice is not None:
                same = [name for name, s in zip(arms[arm], numbers, strict=True) if s == twice]
                raise ValueError(
                    f"{where}.arms.{arm}: {' and '.join(same)} have the same seed {twice}, so they "
                    f"are one training; set {self._seed_of(same[-1])} to another one"
                )
            if len(numbers) < comparison.seeds:
                raise ValueError(
                    f"{where}.arms.{arm}: seeds {numbers}; at least {comparison.seeds}, distinct"
                )
            if numbers != seeds[first]:
                raise ValueError(
                    f"{where}.arms.{arm}: its trainings have the seeds {numbers}, those of {first} "
                    f"{seeds[first]}; set {', '.join(map(self._seed_of, arms[arm]))} to the same"
                )
        self._check_equal(where, comparison)
        epochs = {arm: self.epochs(names[0]) for arm, names in arms.items()}
        if len(set(epochs.values())) > 1:
            raise ValueError(
                f"{where}.arms: {epochs} epochs with those of the trainings that they go on from; "
                "compare trainings of one budget"
            )

    def epochs(self, name: str) -> int:
        """Epochs of ``student(name)``, with those of its stages and of what it goes on from."""
        stages = self.student(name).stages()
        stage_epochs = sum(stage.epochs for stage in stages)
        if stages[0].init != "previous":
            return stage_epochs
        before = STUDENTS[STUDENTS.index(name.removeprefix("student_")) - 1]
        return stage_epochs + self.epochs(f"student_{before}")

    def _seed_of(self, name: str) -> str:
        """Where the seed of a training stands: those of an arm are set one by one."""
        if name in self.experiments:
            return f"experiments.{name}.seed"
        return f"students.{name.removeprefix('student_')}.seed"

    def _seeds(self, names: tuple[str, ...]) -> list[int]:
        seeds = (self.student(name).seed for name in names)
        return [self.seed if seed is None else seed for seed in seeds]

    def _check_equal(self, where: str, comparison: Comparison) -> None:
        """Runs of an arm differ in their seed alone, arms also in their task and what may vary."""
        base = self.student(comparison.arms[comparison.baseline][0])
        for arm, names in comparison.arms.items():
            arm_training = self.student(names[0])
            free = {"seed", "task", *comparison.varies}
            for name, other, allowed in (
                *((name, self.student(name), {"seed"}) for name in names[1:]),
                (names[0], base, free),
            ):
                for field in fields(Training):
                    a, b = getattr(arm_training, field.name), getattr(other, field.name)
                    if a != b and field.name not in allowed:
                        raise ValueError(
                            f"{where}.arms.{arm}: {field.name} is {a} in {names[0]} and {b} in "
                            f"{name if allowed == {'seed'} else comparison.baseline}; make them "
                            "equal, or name the field in varies"
                        )

    def _check_soft_labels(self) -> None:
        if self.softlabels.folds == 1:
            raise ValueError("softlabels.folds: 0, or at least 2")
        students = {**_named("students", self.students), **_named("experiments", self.experiments)}
        for name, training in students.items():
            if not isinstance(training.task, Distilling):
                continue
            if training.soft_labels == "in_sample" and not self.softlabels.folds:
                raise ValueError(f"{name}.soft_labels: with softlabels.folds 0 they are in-sample")
            if self.softlabels.views and training.soft_labels == "standard":
                for field in ("augment", "strength", "erase", "size"):
                    theirs, own = getattr(self.students["kd"], field), getattr(training, field)
                    if own != theirs:
                        raise ValueError(
                            f"{name}.{field} is {own}: soft labels of {self.softlabels.views} views"
                            f" are of students.kd's, {theirs}"
                        )

    def student(self, name: str) -> Training:
        """The recipe of an experiment, or of ``student_ce`` and its like."""
        if name in self.experiments:
            return self.experiments[name]
        return self.students[name.removeprefix("student_")]

    @property
    def folds(self) -> dict[str, tuple[str, int]]:
        """The trainings that leave one fold out, by name: the teacher's key, and the fold."""
        return {
            f"{key}_{fold + 1}": (key, fold)
            for key in self.teachers
            for fold in range(self.softlabels.folds)
        }

    @property
    def views(self) -> Views | None:
        """The views that teachers label, or ``None`` for the centre alone."""
        if not self.softlabels.views:
            return None
        seen = self.students["kd"]
        return Views(self.softlabels.views, self.seed, seen.augment, seen.strength, seen.erase)

    @property
    def curated(self) -> dict[str, Curation]:
        """All curations by name: the three of every profile, then its own."""
        return {**{name: getattr(self, name) for name in _CURATED}, **self.curations}

    @property
    def tested(self) -> list[str]:
        """The curations whose test rows are an evaluation set; hq_train's are in the mixed one."""
        names = [name for name, curation in self.curated.items() if "test" in curation.splits]
        return [name for name in names if name != "hq_train"]

    def source(self, name: str) -> Source:
        """The source called ``name``."""
        for source in self.sources:
            if source.name == name:
                return source
        raise FerError(
            f"unknown source {name!r}",
            code="unknown-source",
            where=f"profile {self.name}",
            allowed=", ".join(source.name for source in self.sources),
        )


def _named(table: str, trainings: dict[str, Training]) -> dict[str, Training]:
    return {f"{table}.{name}": training for name, training in trainings.items()}
