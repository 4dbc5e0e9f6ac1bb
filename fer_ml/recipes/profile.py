"""Profiles: typed recipes for a whole run, from the sources to the claims.

A profile is a frozen value, returned by a function; a variant changes a few fields. Every artifact
records the part of the profile that it was made from, so a changed field makes exactly the
dependent assets stale.
"""

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES, EXCLUSIONS
from fer_ml.base.names import require_names
from fer_ml.base.plain import Day, Plain
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
    """The base class of the parts of a profile: immutable; unknown keys and NaN are refused."""

    model_config = ConfigDict(allow_inf_nan=False)


class Source(Frozen):
    """One raw dataset: its name in manifests, its folder, its adapter and its label meanings."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Name of the source, also in the manifest's column `source`."""
    adapter: str
    """Adapter that reads the publisher's files: [data](data.md)."""
    title: str = ""
    """Name for people."""
    root: str | None = None
    """Its folder; null: the one of `[roots]` in fer.toml, or else `data/<name>` in the project."""
    splits: dict[str, Split] = {}
    """By the publisher's split: the split to use instead."""
    options: dict[str, str] = {}
    """Options of the adapter."""
    labels: dict[str, str] = {}
    """By the publisher's label: a class or a reason to exclude, in place of the adapter's table."""

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
    """Fractions of rows to split off, by group and class, where the publisher gives no split."""

    val: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of train, for sources without a val part."""
    calib: float = Field(default=0.4, gt=0, lt=1)
    """Fraction of val that becomes calib."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Fraction of all rows, for sources with no split at all."""


class Near(Frozen):
    """Correlations from which two faces count as copies of one photo: ``fer_ml.manifests.near``."""

    code: float = Field(default=0.64, gt=0, le=1)
    """Least correlation of the codes that tell faces apart."""
    view: float = Field(default=0.8, gt=0, le=1)
    """Least correlation of coarse views."""
    detail: float = Field(default=0.88, gt=0, le=1)
    """Least correlation of fine detail, after one face is aligned with the other."""
    grey: float = Field(default=0.98, gt=0, le=1)
    """Least correlation of unaligned 24x24 greys; it replaces `view` and `detail`."""


#: Drawn faces share their maker's few shapes: what makes photos copies does not make these ones.
DRAWN_NEAR = Near(code=0.9, view=0.95, detail=0.97)


class Curation(Frozen):
    """The rule for a curated manifest: which rows of the unified manifest it takes."""

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
    """Leaves out test rows with a near-duplicate in another split of a publisher."""
    agree_with: tuple[str, ...] = ()
    """Keeps rows whose face has the same label in each of these sources."""
    votes_added: dict[str, Annotated[float, Field(gt=0, le=1000)]] = {}
    """By source: how many votes its label of the same face adds to the column `votes`."""

    @model_validator(mode="after")
    def _consistent(self) -> "Curation":
        unknown = set(self.labels) - set(CLASSES)
        if unknown:
            raise ValueError(f"labels: {sorted(unknown)} are not among {list(CLASSES)}")
        if self.drop_twins and "test" not in self.splits:
            raise ValueError("drop_twins: it leaves out test rows, and splits has no test")
        return self


class Ensemble(Frozen):
    """Fusion of the teachers and its weights."""

    fusion: Literal["logits", "probabilities", "calibrated"] = "calibrated"
    """What is averaged; `calibrated`: log-probabilities at each teacher's own temperature."""
    weights: tuple[float, ...] | Literal["interim_report"] | None = None
    """One weight for each teacher; null: search on calib; `interim_report`: 0.4, 0.4, 0.2."""
    step: float = Field(default=0.1, gt=0, le=0.5)
    """Step of the grid search; a convex fit of the NLL follows, but not for `probabilities`."""


class SoftLabels(Frozen):
    """The labelling of the training rows by the teachers."""

    target_entropy: float = Field(default=1.0, gt=0, lt=1.9)
    """Mean entropy in nats of the softened labels, which decides the KD temperature."""
    folds: int = Field(default=0, ge=0, le=20)
    """Number of folds, each labelled by teachers trained on the others; 0: in-sample labels."""
    views: int = Field(default=0, ge=0, le=1000)
    """Augmented views of each row to label, augmented as in `students.kd`; 0: the centre view."""


class Selection(Frozen):
    """Limits of the dual gate, which a student must pass to replace the first student."""

    macro_f1_loss: float = Field(default=0.01, ge=0, le=1)
    """Largest allowed loss of macro-F1 on val."""
    weakest_f1_loss: float = Field(default=0.02, ge=0, le=1)
    """Largest allowed loss on val of the mean F1 of the three weakest classes."""
    flips_gain: float = Field(default=0.1, ge=0)
    """Largest allowed relative rise of label flips per minute on the demo session."""
    least_seconds: float = Field(default=60.0, ge=0)
    """Seconds with faces that the demo session needs to count in the decision."""
    least_events: int = Field(default=10, ge=0)
    """Expressions (for F1) and flips (for their rate) that the session needs to count."""


class Demo(Frozen):
    """The demo session: its video, its face detector and its limit of latency."""

    video: str | None = None
    """File of the video; null: the film drawn with the sample."""
    detector: Literal["haar", "yunet"] = "yunet"
    """Face detector."""
    session: str | None = None
    """Folder of a recorded session to replay through the deployed student in place of the video."""
    p95_limit_ms: float = Field(default=100.0, gt=0)
    """Largest 95th percentile of the time per frame; 33 keeps up with 30 frames a second."""
    p95_blocks: bool = False
    """Whether exceeding the limit blocks the pipeline; else it is a warning."""
    frames: dict[str, Frame] = FRAMES
    """By detector: the square to cut around its box, written to the cards of bundles."""


#: What no comparison may let vary: with more steps or more rows a step, any method looks better.
BUDGET = ("epochs", "batch_size", "accumulate", "first_stage")


class Comparison(Frozen):
    """A fair comparison of arms; an arm is one recipe, trained with several seeds.

    Arms may differ only in their task and in the fields that ``varies`` names, never in the budget.
    Each training of an arm is an experiment or a student.
    """

    arms: dict[str, tuple[str, ...]] = Field(min_length=2)
    """By arm: its trainings. If each arm changes one thing of the arm before, it is an ablation."""
    baseline: str
    """Name of the arm that the others are compared with."""
    varies: tuple[str, ...] = ()
    """Fields of a training that may differ, besides its task."""
    evaluation: str = "test_all_sources"
    """Evaluation set of the benchmark on which they are compared."""
    rows: Literal["official", "deduplicated"] = "official"
    """Rows of the evaluation set that count."""
    seeds: int = Field(default=3, ge=1)
    """Least number of seeds per arm; fewer than 3 say too little about chance."""


class Profile(Frozen):
    """All settings that decide a run's results. See the functions of ``recipes.builtin``."""

    # Dagster asks a module for names with two underscores on its own.
    name: str = Field(pattern=r"^_?[a-z0-9][a-z0-9_]*$")
    """Name of the profile, and of its folder."""
    seed: int = Field(default=SEED, ge=0, lt=2**63, strict=True)
    """Seed of splits and trainings."""
    drawn: bool = False
    """Whether the sources are drawn by this project itself."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Raw datasets."""
    near: Near | None = None
    """Limits for near-duplicates; null: the defaults for photos, or for drawn faces."""
    draw: Draw = Draw()
    """Fractions of the splits that the publisher does not give."""
    hq_train: Curation
    """Manifest for training, model selection and calibration."""
    eval_only: Curation
    """Manifest of sources set apart for evaluation."""
    test_all_sources: Curation
    """Manifest of the mixed benchmark."""
    curations: dict[str, Curation] = {}
    """By name: manifests of your own, each an asset `<name>_manifest`."""
    preprocess: Preprocess
    """Preprocessing from a face to a network input."""
    teachers: dict[str, Training]
    """By `RN18`, `B3` or `CNXT`: the teachers."""
    ensemble: Ensemble = Ensemble()
    """Fusion of the teachers and its weights."""
    calibration: Literal["temperature", "vector"] = "temperature"
    """`vector` also fits a vector scaling of each model, to compare with its temperature."""
    softlabels: SoftLabels = SoftLabels()
    """Labelling by the teachers."""
    students: dict[str, Training]
    """The students `ce`, `kd` and `dkd`, in this order."""
    experiments: dict[str, Training] = {}
    """By name: further trainings, each a partition of `student_experiment`."""
    models: dict[str, str] = {}
    """By name: a bundle's folder, a `.pt` or an `.onnx`, to be measured in the benchmark too."""
    comparisons: dict[str, Comparison] = {}
    """By name: trainings that are compared, each an asset `comparison/<name>`."""
    robustness_faces: int = Field(default=1000, ge=7)
    """Most faces of a corruption set, drawn from the mixed test set without its near twins."""
    selection: Selection = Selection()
    """Limits of the dual gate."""
    demo: Demo = Demo()
    """The demo session."""
    looked_at: dict[str, Day] = {}
    """By evaluation set: the day of the first look at it, where no ledger holds that look."""
    floor_macro_f1: float = Field(default=0.143, ge=0, le=1)
    """Least macro-F1 of each training, which must also beat chance; 0 switches both off."""

    @property
    def near_rule(self) -> Near:
        """Return ``near``, or if null the default limits for drawn faces or for photos."""
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
        if rooted := [source.name for source in self.sources if self.drawn and source.root]:
            raise ValueError(f"sources: root of {rooted} does nothing, since the profile is drawn")
        if not self.drawn and self.demo.video is None:
            raise ValueError("demo.video: name a clip; only a drawn profile brings its own")
        self._check_ensemble()
        return self

    def _check_curations(self, names: list[str]) -> None:
        for name, curation in self.curated.items():
            for field in ("sources", "min_confidence", "agree_with", "votes_added"):
                unknown = set(getattr(curation, field)) - set(names)
                if unknown:
                    raise ValueError(f"{name}.{field}: {sorted(unknown)} are not among {names}")
            idle = set(curation.min_confidence) - set(curation.sources)
            if idle:
                raise ValueError(
                    f"{name}.min_confidence: {sorted(idle)} are not among its sources, so it does "
                    "nothing for them"
                )
        if unknown := set(self.looked_at) - set(self.tested):
            raise ValueError(f"looked_at: {sorted(unknown)} are not among {self.tested}")
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
                    f"{self.preprocess.size} px; set network_size, or preprocess.size for all"
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
        """Return the total epochs of ``student(name)``, with its stages and earlier trainings."""
        stages = self.student(name).stages()
        stage_epochs = sum(stage.epochs for stage in stages)
        if stages[0].init != "previous":
            return stage_epochs
        before = STUDENTS[STUDENTS.index(name.removeprefix("student_")) - 1]
        return stage_epochs + self.epochs(f"student_{before}")

    def _seed_of(self, name: str) -> str:
        """Return the profile's field that holds the seed of the training ``name``."""
        if name in self.experiments:
            return f"experiments.{name}.seed"
        return f"students.{name.removeprefix('student_')}.seed"

    def _seeds(self, names: tuple[str, ...]) -> list[int]:
        seeds = (self.student(name).seed for name in names)
        return [self.seed if seed is None else seed for seed in seeds]

    def _check_equal(self, where: str, comparison: Comparison) -> None:
        """Refuse runs of an arm that differ beyond the seed, and arms beyond what may vary."""
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
        """Return the recipe of an experiment, or of a student by its asset (``student_ce``)."""
        if name in self.experiments:
            return self.experiments[name]
        return self.students[name.removeprefix("student_")]

    @property
    def folds(self) -> dict[str, tuple[str, int]]:
        """Return by name ``(teacher's key, fold)`` of each training that leaves one fold out."""
        return {
            f"{key}_{fold + 1}": (key, fold)
            for key in self.teachers
            for fold in range(self.softlabels.folds)
        }

    @property
    def views(self) -> Views | None:
        """Return the augmented views that teachers label; ``None`` for the centre view alone."""
        if not self.softlabels.views:
            return None
        seen = self.students["kd"]
        return Views(self.softlabels.views, self.seed, seen.augment, seen.strength, seen.erase)

    @property
    def curated(self) -> dict[str, Curation]:
        """Return all curations by name: the three of every profile, then the user's own."""
        return {**{name: getattr(self, name) for name in _CURATED}, **self.curations}

    @property
    def tested(self) -> list[str]:
        """Return the names of curations whose test rows are an evaluation set of their own."""
        names = [name for name, curation in self.curated.items() if "test" in curation.splits]
        return [name for name in names if name != "hq_train"]

    def source(self, name: str) -> Source:
        """Return the source called ``name``."""
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
