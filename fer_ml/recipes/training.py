"""Recipes of a training: frozen dataclasses that need pydantic alone.

They are the parts of profiles and of the ``job.json`` of a packed training, which runs where the
rest of this project is not installed. Ranges are checked on construction; pydantic, which reads
both, refuses unknown keys by ``__pydantic_config__``.
"""

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Discriminator, TypeAdapter, ValidationError

from fer_ml.base.errors import FerError


@dataclass(frozen=True)
class Within:
    """The allowed range of a number, both ends included; it does not apply to null."""

    low: float
    high: float = 1e9


@dataclass(frozen=True)
class Ranged:
    """The base class of a recipe's parts: checks on construction that each number is in range."""

    #: What pydantic is told when it is part of a profile.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            limits = (m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Within))
            for limit in limits:
                if value is not None and not limit.low <= value <= limit.high:
                    raise ValueError(f"{name} = {value} is outside {limit.low} to {limit.high}")


@dataclass(frozen=True)
class CE(Ranged):
    """Cross-entropy with the labels, or with the annotators' votes (``Training.targets``)."""

    kind: Literal["ce"] = "ce"
    """Name of the task."""


@dataclass(frozen=True)
class ArcFace(Ranged):
    """ArcFace loss: additive angular margin (Deng et al. 2019) after warmup with a linear head."""

    kind: Literal["arcface"] = "arcface"
    """Name of the task."""
    embedding: Annotated[int, Within(8, 8192)] = 512
    """Length of the embedding, whose angle to each class is compared."""
    dropout: Annotated[float, Within(0, 0.95)] = 0.2
    """Dropout probability of the embedding."""
    scale: Annotated[float, Within(1e-3, 1e3)] = 30.0
    """Factor from cosines to logits."""
    margin: Annotated[float, Within(0, 1.5)] = 0.35
    """Angle in radians by which the true class must be closer."""
    plain_epochs: Annotated[float, Within(0)] = 5
    """Epochs in which the plain linear head trains, before the margin."""
    ramp_end: Annotated[float, Within(0)] = 15
    """Epoch until which the margin rises linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ramp_end < self.plain_epochs:
            raise ValueError(f"ramp_end = {self.ramp_end} is before plain_epochs")


@dataclass(frozen=True)
class KD(Ranged):
    """ce_weight * CE + kd_weight * T^2 * KL(teacher || student) (Hinton et al. 2015)."""

    kind: Literal["kd"] = "kd"
    """Name of the task."""
    ce_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the cross-entropy with the labels."""
    kd_weight: Annotated[float, Within(1e-9)] = 1.0
    """Weight of the divergence from the teacher."""
    temperature: Annotated[float | None, Within(1e-2, 1e3)] = None
    """Temperature of student and teacher; null: the one derived with the soft labels."""
    distill_warmup: Annotated[float, Within(0)] = 0.0
    """Epochs in which the teacher's terms rise linearly from 0."""


@dataclass(frozen=True)
class DKD(Ranged):
    """ce_weight * CE + T^2 * (tckd_weight * TCKD + nckd_weight * NCKD) (Zhao et al. 2022)."""

    kind: Literal["dkd"] = "dkd"
    """Name of the task."""
    ce_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the cross-entropy with the labels."""
    tckd_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the true class against all others."""
    nckd_weight: Annotated[float, Within(0)] = 2.0
    """Weight of the other classes among themselves, whatever the teacher's confidence."""
    temperature: Annotated[float | None, Within(1e-2, 1e3)] = None
    """Temperature of student and teacher; null: the one derived with the soft labels."""
    distill_warmup: Annotated[float, Within(0)] = 0.0
    """Epochs in which the teacher's terms rise linearly from 0."""


@dataclass(frozen=True)
class DIST(Ranged):
    """ce_weight * CE + inter_weight * inter + intra_weight * intra (Huang et al. 2022).

    Each term is one minus Pearson's correlation of the student with the teacher.
    """

    kind: Literal["dist"] = "dist"
    """Name of the task."""
    ce_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the cross-entropy with the labels."""
    inter_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the correlation between the classes of a row."""
    intra_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the correlation between the rows of a class."""
    temperature: Annotated[float | None, Within(1e-2, 1e3)] = None
    """Temperature of student and teacher; null: the one derived with the soft labels."""
    distill_warmup: Annotated[float, Within(0)] = 0.0
    """Epochs in which the teacher's terms rise linearly from 0."""


@dataclass(frozen=True)
class StandardizedKD(Ranged):
    """KD on z-scored logits of both sides (Sun et al. 2024)."""

    kind: Literal["standardized_kd"] = "standardized_kd"
    """Name of the task."""
    ce_weight: Annotated[float, Within(0)] = 1.0
    """Weight of the cross-entropy with the labels."""
    kd_weight: Annotated[float, Within(1e-9)] = 1.0
    """Weight of the divergence from the teacher."""
    temperature: Annotated[float, Within(1e-2, 1e3)] = 1.0
    """Temperature of both; a z-score of seven classes is at most 2.27, so 1 is soft already."""
    distill_warmup: Annotated[float, Within(0)] = 0.0
    """Epochs in which the teacher's terms rise linearly from 0."""


Task = Annotated[CE | ArcFace | KD | DKD | DIST | StandardizedKD, Discriminator("kind")]
#: Tasks that learn from a teacher.
Distilling = KD | DKD | DIST | StandardizedKD


@dataclass(frozen=True)
class Imbalance(Ranged):
    """Corrections of class imbalance. Two at once correct twice, so they need ``several``."""

    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """`balanced` draws classes uniformly."""
    class_weights: Literal["none", "effective_number"] = "none"
    """Weights by the effective number of samples (Cui et al. 2019)."""
    beta: Annotated[float, Within(0, 0.999999999)] = 0.9999
    """Parameter of the effective number."""
    focal_gamma: Annotated[float, Within(0, 20)] = 0.0
    """Focal loss (Lin et al. 2017); 0 is off."""
    logit_adjustment: Annotated[float, Within(0, 20)] = 0.0
    """Tau of logit adjustment (Menon et al. 2021); 0 is off."""
    several: bool = False
    """Allows two corrections at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        used = self.used()
        if len(used) > 1 and not self.several:
            raise ValueError(
                f"{' and '.join(used)} correct the same imbalance twice: choose one, "
                "or say several = true"
            )

    def used(self) -> list[str]:
        """Return the names of the corrections in use."""
        return [
            name
            for name, on in {
                "the balanced sampler": self.sampler == "balanced",
                "class_weights": self.class_weights != "none",
                "focal_gamma": self.focal_gamma > 0,
                "logit_adjustment": self.logit_adjustment > 0,
            }.items()
            if on
        ]


@dataclass(frozen=True)
class Negative(Ranged):
    """Negative learning: the auxiliary term -log(1 - p) of a class that a face does not show."""

    weight: Annotated[float, Within(1e-9)] = 0.05
    """Weight of this term."""
    ratio: Annotated[float, Within(0, 1)] = 1.0
    """Fraction of the rows for which a wrong class is drawn."""
    entropy_gate: Annotated[float, Within(0, 1)] = 0.0
    """Only rows whose prediction has at least this normalised entropy count."""
    source: Literal["random", "manifest"] = "random"
    """`manifest` takes the column `neg_label`."""


@dataclass(frozen=True)
class Prototype(Ranged):
    """Prototype term: pulls features towards the moving average of their class."""

    weight: Annotated[float, Within(1e-9)] = 0.1
    """Weight of this term."""
    dim: Annotated[int, Within(2, 4096)] = 32
    """Length of a prototype, to which features are projected."""
    momentum: Annotated[float, Within(0, 0.99999)] = 0.9
    """Share of the old prototype in the new one."""
    gate: Literal["threshold", "top_fraction"] = "threshold"
    """Rows that count: those farther than `value`, or the farthest share `value` of the batch."""
    value: Annotated[float, Within(0, 2)] = 0.0
    """Distance from the prototype (1 - cos), or share of the batch, up to 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate == "top_fraction" and self.value > 1:
            raise ValueError(f"value = {self.value} is outside 0 to 1")


@dataclass(frozen=True)
class Locality(Ranged):
    """Locality-preserving loss (Li et al. 2017): pulls features to neighbours of their class."""

    weight: Annotated[float, Within(1e-9)] = 0.01
    """Weight of this term."""
    neighbours: Annotated[int, Within(1, 4096)] = 20
    """Number of nearest faces of the same class in the batch."""


#: Fields of a training that came after records were written.
_LATER = ("precise_bn", "zero_init_residual", "init_package", "network_size", "average_flip")


@dataclass(frozen=True)
class Training(Ranged):
    """One training: architecture, task, budget, data treatment and optimiser."""

    architecture: str
    """Name of the network in timm."""
    task: Task
    """The loss to minimise: a table with its `kind`."""
    init: Literal["none", "imagenet", "package", "file", "previous"]
    """First weights: random, timm's, of a package or a file, or of the previous training."""
    epochs: Annotated[int, Within(1, 100_000)]
    """Epochs of this training alone, additional to whatever came before."""
    init_file: str | None = None
    """File of the first weights; with `package`, its name inside the package."""
    init_package: str | None = None
    """Installed package that brings weights; none of its code is run."""
    init_sha256: str | None = None
    """sha256 that the first weights must have; required for a package."""
    seed: Annotated[int | None, Within(0, (1 << 63) - 1)] = None
    """Seed of the training; null: the profile's."""
    first_stage: "Training | None" = None
    """A training to run before this one, which then starts from its best weights."""
    size: Annotated[int | None, Within(16, 1024)] = None
    """Side of the input in px; null: the profile's."""
    network_size: Annotated[int | None, Within(16, 1024)] = None
    """Side in px to which the network itself resizes its input (bilinear); null: as it comes."""
    average_flip: bool = False
    """Whether the network answers with the mean logits of a face and its mirror image. That takes
    twice the time, in inference alone, and gives both the same answer."""
    batch_size: Annotated[int, Within(2, 1 << 20)] = 64
    """Rows of one optimiser step."""
    accumulate: Annotated[int, Within(1)] = 1
    """Equal parts in which the rows of a step are computed; up to half of `batch_size`."""
    optimiser: Literal["adamw", "sgd", "nested"] = "adamw"
    """`sgd` has Nesterov momentum 0.9; `nested` is AdamW with a second, slow momentum."""
    lr: Annotated[float, Within(1e-12, 1e3)] = 1e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Within(0, 10)] = 0.05
    """Decoupled weight decay."""
    warmup_epochs: Annotated[float, Within(0)] = 1.0
    """Epochs in which the learning rate rises linearly."""
    min_lr: Annotated[float, Within(0, 1e3)] = 1e-5
    """Learning rate at the end of the cosine."""
    clip_norm: Annotated[float, Within(0)] = 5.0
    """Largest norm of the gradient; 0 does not clip."""
    ema: Annotated[float, Within(0, 0.999999)] = 0.0
    """Decay of the moving average of the weights; 0 keeps none."""
    precise_bn: Annotated[int, Within(0)] = 0
    """Training faces over which BatchNorm is measured anew before val (Wu and Johnson 2021)."""
    label_smoothing: Annotated[float, Within(0, 0.99)] = 0.0
    """Label smoothing: the share of the target that is spread evenly over all classes."""
    mixup: Annotated[float, Within(0, 100)] = 0.0
    """Alpha of mixup; 0 is off. Only with the task `ce`."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """`auto`: bf16 where the device has it in hardware, else fp16 on a GPU, else fp32."""
    compile: bool = False
    """Whether torch compiles the network."""
    tune: Literal["all", "head", "last_block", "norm"] = "all"
    """Weights to train; `last_block` includes the head. BatchNorm is frozen unless all train."""
    stem_stride: Literal[1, 2] = 2
    """Stride of the first convolution; 1 keeps the resolution of small faces."""
    zero_init_residual: bool = False
    """Random residual blocks start as the identity (Goyal et al. 2017)."""
    drop_last: bool = True
    """Whether the rows of an epoch that do not fill a step are left out."""
    augment: Literal["affine", "crop", "camera"] = "affine"
    """`affine`: flip, rotate, scale, shift, contrast, brightness; `crop`: of the interim report;
    `camera`: wider `affine` without its light, then corruptions (`fer_ml.images.corruptions`)."""
    strength: Annotated[float, Within(0, 1)] = 1.0
    """Scale of `affine` and `camera`; 0 changes nothing."""
    erase: Annotated[float, Within(0, 1)] = 0.0
    """Probability of a random erased rectangle."""
    targets: Literal["labels", "votes"] = "labels"
    """`votes` trains on the distribution of the annotators' votes."""
    soft_labels: Literal["standard", "centre", "in_sample", "raw"] = "standard"
    """Ablations: `centre`, one view; `in_sample`, that view labelled by teachers that trained on
    it; `raw`, the same, fused without calibration."""
    row_weights: bool = False
    """Whether rows are weighted by the manifest's column `weight`."""
    imbalance: Imbalance = Imbalance()
    """Corrections of class imbalance."""
    negative: Negative | None = None
    """Auxiliary term; null is off."""
    prototype: Prototype | None = None
    """Auxiliary term; null is off."""
    locality: Locality | None = None
    """Auxiliary term; null is off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > self.batch_size // 2:
            raise ValueError(
                f"accumulate = {self.accumulate} is outside 1 to {self.batch_size // 2}"
            )
        if (self.init in ("file", "package")) != (self.init_file is not None):
            raise ValueError("init = 'file' or 'package' and init_file go together")
        if (self.init == "package") != (self.init_package is not None):
            raise ValueError("init = 'package' and init_package go together")
        if self.init_package is not None and self.init_sha256 is None:
            raise ValueError(f"init_sha256: pin the weights of the package {self.init_package}")
        if self.first_stage is not None and self.init != "previous":
            raise ValueError("first_stage hands its weights on: init must be 'previous'")
        if self.accumulate > 1 and self.compares_rows:
            raise ValueError(
                f"accumulate = {self.accumulate} with {' and '.join(self.compares_rows)}: this "
                "compares the rows of one step with each other, which parts of a step cannot; use "
                "accumulate = 1"
            )
        if self.mixup and not isinstance(self.task, CE):
            raise ValueError(
                f"mixup with task {self.task.kind}: teachers' logits and margins belong to one "
                "face, not to a mixture; use task ce"
            )

    @property
    def compares_rows(self) -> tuple[str, ...]:
        """Return the names of the loss terms that compare the rows of a step with each other."""
        terms = {
            "task.intra_weight": isinstance(self.task, DIST) and self.task.intra_weight > 0,
            "locality": self.locality is not None,
            "prototype": self.prototype is not None,
        }
        return tuple(name for name, used in terms.items() if used)

    def stages(self) -> list["Training"]:
        """Return this training's stages in the order in which they run, itself last."""
        return [*(self.first_stage.stages() if self.first_stage else []), self]

    def recorded(self) -> dict[str, Any]:
        """Return the recipe as JSON values for the run's record.

        A field added by a later version is present only if used, so older records stay equal.
        """
        values = {k: v for k, v in asdict(self).items() if k not in _LATER or v}
        if self.first_stage is not None:
            values["first_stage"] = self.first_stage.recorded()
        return values


class Augmented(Protocol):
    """The augmentation settings of a face's views, which ``Training`` and ``Views`` both have."""

    @property
    def augment(self) -> Literal["affine", "crop", "camera"]:
        """Return the kind of augmentation."""
        ...

    @property
    def strength(self) -> float:
        """Return how far views differ from the face; 0 leaves it unchanged."""
        ...

    @property
    def erase(self) -> float:
        """Return the probability that a patch of a view is erased."""
        ...


@dataclass(frozen=True)
class Views:
    """The augmented views that teachers label: ``count`` for each training face, from ``seed``.

    A student that learns from these labels sees the same views, so it uses this augmentation.
    """

    count: int
    seed: int
    augment: Literal["affine", "crop", "camera"]
    strength: float
    erase: float


def read_recipe(values: Any) -> Training:
    """Build a training's recipe from JSON values; see ``read_plain``."""
    recipe: Training = read_plain(Training, values, "recipe")
    return recipe


def read_plain(kind: Any, values: Any, where: str) -> Any:
    """Build a dataclass from JSON values; ``FerError`` names an unknown, missing or invalid field.

    pydantic reads profiles too, so a packed job and ``fer.toml`` follow the same rules.
    """
    try:
        # Lists are tuples in JSON alone.
        return _reader(kind).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        limits = first.get("ctx", {})
        raise FerError(
            first["msg"].removeprefix("Value error, "),
            code=_CODES.get(first["type"], "invalid-value"),
            where=".".join([where, *(str(part) for part in first["loc"] if part not in _TASKS)]),
            allowed=limits.get("expected") or limits.get("expected_tags") or _fields(kind, first),
        ) from error


@cache
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fields(kind: Any, fault: Mapping[str, Any]) -> str | None:
    """Return the fields of ``kind`` where one of its own is unknown."""
    unknown = _CODES.get(fault["type"]) == "unknown-field" and len(fault["loc"]) == 1
    return ", ".join(field.name for field in fields(kind)) if unknown else None


_TASKS = {task.kind for task in (CE, ArcFace, KD, DKD, DIST, StandardizedKD)}
_CODES = {
    "extra_forbidden": "unknown-field",
    "unexpected_keyword_argument": "unknown-field",
    "missing": "missing-field",
}
