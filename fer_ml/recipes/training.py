"""Recipes of a training: frozen dataclasses that need nothing but Python.

Profiles are made of them, and so is the ``job.json`` of a packed training that runs where the rest
of this project is not installed. Ranges are checked on construction; pydantic, which reads
profiles, refuses unknown keys by ``__pydantic_config__``.
"""

import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal, Protocol

from fer_ml.base.errors import FerError

#: What pydantic is told when a recipe is part of a profile.
STRICT = {"extra": "forbid", "strict": True}


def _demand(recipe: object, **limits: tuple[float, float]) -> None:
    """Each named number lies in ``[low, high]``; ``None`` passes."""
    for name, (low, high) in limits.items():
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} = {value} is outside {low} to {high}")


_BIG = 1e9


@dataclass(frozen=True)
class CE:
    """Cross-entropy with the labels, or with the annotators' votes (``Training.targets``)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["ce"] = "ce"


@dataclass(frozen=True)
class ArcFace:
    """Additive angular margin (Deng et al. 2019) after a plain-logit warmup.

    The plain linear head trains for ``plain_epochs``; then the margin rises linearly from 0 to
    ``margin`` (radians) until ``ramp_end``, at scale ``scale``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["arcface"] = "arcface"
    embedding: int = 512
    dropout: float = 0.2
    scale: float = 30.0
    margin: float = 0.35
    plain_epochs: float = 5
    ramp_end: float = 15

    def __post_init__(self) -> None:
        _demand(self, embedding=(8, 8192), dropout=(0, 0.95), scale=(1e-3, 1e3), margin=(0, 1.5))
        _demand(self, plain_epochs=(0, _BIG), ramp_end=(self.plain_epochs, _BIG))


@dataclass(frozen=True)
class KD:
    """ce_weight * CE + kd_weight * T^2 * KL(teacher || student) (Hinton et al. 2015).

    ``temperature`` null takes the one that the soft labels derived from their sharpness;
    ``distill_warmup`` are the epochs in which the teacher's terms rise linearly from 0.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["kd"] = "kd"
    ce_weight: float = 1.0
    kd_weight: float = 1.0
    temperature: float | None = None
    distill_warmup: float = 0.0

    def __post_init__(self) -> None:
        _demand(self, ce_weight=(0, _BIG), kd_weight=(1e-9, _BIG), temperature=(1e-2, 1e3))
        _demand(self, distill_warmup=(0, _BIG))


@dataclass(frozen=True)
class DKD:
    """ce_weight * CE + T^2 * (tckd_weight * TCKD + nckd_weight * NCKD) (Zhao et al. 2022).

    Both weights stand in front of their own term and nothing multiplies them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["dkd"] = "dkd"
    ce_weight: float = 1.0
    tckd_weight: float = 1.0
    nckd_weight: float = 2.0
    temperature: float | None = None
    distill_warmup: float = 0.0

    def __post_init__(self) -> None:
        _demand(self, ce_weight=(0, _BIG), tckd_weight=(0, _BIG), nckd_weight=(0, _BIG))
        _demand(self, temperature=(1e-2, 1e3), distill_warmup=(0, _BIG))


@dataclass(frozen=True)
class DIST:
    """ce_weight * CE + inter_weight * inter + intra_weight * intra (Huang et al. 2022).

    One minus Pearson's correlation between the classes of a row, and between the rows of a class.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["dist"] = "dist"
    ce_weight: float = 1.0
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    temperature: float | None = None
    distill_warmup: float = 0.0

    def __post_init__(self) -> None:
        _demand(self, ce_weight=(0, _BIG), inter_weight=(0, _BIG), intra_weight=(0, _BIG))
        _demand(self, temperature=(1e-2, 1e3), distill_warmup=(0, _BIG))


@dataclass(frozen=True)
class StandardizedKD:
    """KD on z-scored logits of both sides (Sun et al. 2024).

    With seven classes a z-score is at most 2.27, so 1 is a soft temperature already.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    kind: Literal["standardized_kd"] = "standardized_kd"
    ce_weight: float = 1.0
    kd_weight: float = 1.0
    temperature: float = 1.0
    distill_warmup: float = 0.0

    def __post_init__(self) -> None:
        _demand(self, ce_weight=(0, _BIG), kd_weight=(1e-9, _BIG), temperature=(1e-2, 1e3))
        _demand(self, distill_warmup=(0, _BIG))


Task = CE | ArcFace | KD | DKD | DIST | StandardizedKD
#: Tasks that learn from a teacher.
Distilling = KD | DKD | DIST | StandardizedKD


@dataclass(frozen=True)
class Imbalance:
    """Corrections of class imbalance. Two at once correct twice, so that needs ``several``.

    ``sampler`` balanced draws classes uniformly; ``class_weights`` by the effective number of
    samples (Cui et al. 2019, ``beta``); ``focal_gamma`` 0 is off (Lin et al. 2017);
    ``logit_adjustment`` is tau, 0 is off (Menon et al. 2021).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    class_weights: Literal["none", "effective_number"] = "none"
    beta: float = 0.9999
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0
    several: bool = False

    def __post_init__(self) -> None:
        _demand(self, beta=(0, 0.999999999), focal_gamma=(0, 20), logit_adjustment=(0, 20))
        used = self.used()
        if len(used) > 1 and not self.several:
            raise ValueError(
                f"{' and '.join(used)} correct the same imbalance twice: choose one, "
                "or say several = true"
            )

    def used(self) -> list[str]:
        """The corrections in use."""
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
class Negative:
    """Complementary-label learning, -log(1 - p) of a class that a face does not show.

    ``source`` random draws a wrong class for a fraction ``ratio`` of the rows; manifest takes the
    column ``neg_label``. Only rows whose prediction has a normalised entropy of at least
    ``entropy_gate`` count.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    weight: float = 0.05
    ratio: float = 1.0
    entropy_gate: float = 0.0
    source: Literal["random", "manifest"] = "random"

    def __post_init__(self) -> None:
        _demand(self, weight=(1e-9, _BIG), ratio=(0, 1), entropy_gate=(0, 1))


@dataclass(frozen=True)
class Prototype:
    """A slow memory of each class: features are drawn to their class's moving average.

    ``gate`` threshold counts rows further than ``value`` (1 - cos, 0..2) from their prototype;
    top_fraction counts the furthest ``value`` (0..1) of the batch, and at least one.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    weight: float = 0.1
    dim: int = 32
    momentum: float = 0.9
    gate: Literal["threshold", "top_fraction"] = "threshold"
    value: float = 0.0

    def __post_init__(self) -> None:
        _demand(self, weight=(1e-9, _BIG), dim=(2, 4096), momentum=(0, 0.99999))
        _demand(self, value=(0, 2) if self.gate == "threshold" else (0, 1))


@dataclass(frozen=True)
class Locality:
    """Locality-preserving loss (Li et al. 2017): features near their ``neighbours`` in class."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    weight: float = 0.01
    neighbours: int = 20

    def __post_init__(self) -> None:
        _demand(self, weight=(1e-9, _BIG), neighbours=(1, 4096))


#: Fields of a training that came after records were written.
_LATER = ("precise_bn", "zero_init_residual", "init_package")


@dataclass(frozen=True)
class Training:
    """One training: architecture (a timm name), task, budget, data treatment and optimiser.

    - ``init`` says where the weights come from: ``none`` (random), ``imagenet`` (timm's hub; an
      error without a network), ``package`` (``init_file`` of the installed package
      ``init_package``, which brings weights and runs no code), ``file`` (``init_file``),
      ``previous`` (the training before this one). ``init_sha256`` pins them: other weights are
      refused. A package's are always pinned.
    - ``epochs`` are those of this training alone, additional to whatever came before.
    - ``seed`` null is the profile's.
    - ``first_stage`` is trained before, and its best weights start this one.
    - ``size`` is the side of the input in px; null is the profile's.
    - ``batch_size`` rows make one optimiser step, in ``accumulate`` equal parts.
    - ``optimiser``: ``adamw``; ``sgd`` with Nesterov momentum 0.9; ``nested``, AdamW with a second,
      slow momentum (``nested.MultiTimescale``).
    - ``clip_norm`` 0 does not clip; ``ema`` 0 keeps no moving average of the weights.
    - ``precise_bn`` is the number of training faces over which BatchNorm's statistics are measured
      anew before each measurement on val (Wu and Johnson 2021); 0 keeps the running averages, which
      lag behind weights that move fast.
    - ``precision`` auto is bf16 where the processor computes in it, else fp16 on a GPU, else fp32.
    - ``tune`` says which weights move: all, the classifier, it and the last block, or the
      normalisation layers. Statistics of BatchNorm stand still unless all move.
    - ``augment`` affine: flip, rotation, scale, shift, contrast, brightness, scaled by
      ``strength``; crop: random resized crop, flip and colour jitter of the interim report;
      camera: affine half as wide again, without its contrast and brightness, and then what
      ``fer_ml.images.corruptions`` says, up to ``strength``.
      ``erase`` is the probability of a random rectangle.
    - ``targets`` votes trains on the distribution of the annotators' votes; ``row_weights`` takes
      the manifest's column ``weight``.
    - ``soft_labels`` standard are those of the profile; three others are for ablations: centre has
      one view of a face only, in_sample is that view by the teachers that trained on it, and raw
      is in_sample before calibration: the teachers' logits as they are, as in the interim report.
    - ``stem_stride`` 1 keeps the resolution of small faces; ``zero_init_residual`` starts random
      residual blocks as the identity (Goyal et al. 2017), so that a deep network learns at once.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    architecture: str
    task: Task
    init: Literal["none", "imagenet", "package", "file", "previous"]
    epochs: int
    init_file: str | None = None
    init_package: str | None = None
    init_sha256: str | None = None
    seed: int | None = None
    first_stage: "Training | None" = None
    size: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    optimiser: Literal["adamw", "sgd", "nested"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    min_lr: float = 1e-5
    clip_norm: float = 5.0
    ema: float = 0.0
    precise_bn: int = 0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    compile: bool = False
    tune: Literal["all", "head", "last_block", "norm"] = "all"
    stem_stride: Literal[1, 2] = 2
    zero_init_residual: bool = False
    drop_last: bool = True
    augment: Literal["affine", "crop", "camera"] = "affine"
    strength: float = 1.0
    erase: float = 0.0
    targets: Literal["labels", "votes"] = "labels"
    soft_labels: Literal["standard", "centre", "in_sample", "raw"] = "standard"
    row_weights: bool = False
    imbalance: Imbalance = Imbalance()
    negative: Negative | None = None
    prototype: Prototype | None = None
    locality: Locality | None = None

    def __post_init__(self) -> None:
        _demand(
            self,
            epochs=(1, 100_000),
            seed=(0, (1 << 63) - 1),
            size=(16, 1024),
            batch_size=(2, 1 << 20),
        )
        _demand(self, accumulate=(1, self.batch_size // 2), lr=(1e-12, 1e3), min_lr=(0, 1e3))
        _demand(self, weight_decay=(0, 10), warmup_epochs=(0, _BIG), clip_norm=(0, _BIG))
        _demand(
            self, precise_bn=(0, _BIG), ema=(0, 0.999999), label_smoothing=(0, 0.99), mixup=(0, 100)
        )
        _demand(self, strength=(0, 1), erase=(0, 1))
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
        """The terms of the loss that compare the rows of a step with each other, by name."""
        terms = {
            "task.intra_weight": isinstance(self.task, DIST) and self.task.intra_weight > 0,
            "locality": self.locality is not None,
            "prototype": self.prototype is not None,
        }
        return tuple(name for name, used in terms.items() if used)

    def stages(self) -> list["Training"]:
        """The training after its first stages, in the order in which they run."""
        return [*(self.first_stage.stages() if self.first_stage else []), self]

    def recorded(self) -> dict[str, Any]:
        """The recipe as a record holds it.

        A field that came later is there only where it is used: the records of before stay equal.
        """
        values = {k: v for k, v in asdict(self).items() if k not in _LATER or v}
        if self.first_stage is not None:
            values["first_stage"] = self.first_stage.recorded()
        return values


class Augmented(Protocol):
    """What decides how a face's views look; a ``Training`` and ``Views`` say it."""

    @property
    def augment(self) -> Literal["affine", "crop", "camera"]:
        """The kind of augmentation."""
        ...

    @property
    def strength(self) -> float:
        """How far views differ from the face; 0 leaves it as it is."""
        ...

    @property
    def erase(self) -> float:
        """The probability that a patch of a view is erased."""
        ...


@dataclass(frozen=True)
class Views:
    """The views of every training face that teachers label: ``count`` of them, by ``seed``.

    A student that learns from them sees the same ones, so its augmentation is theirs.
    """

    count: int
    seed: int
    augment: Literal["affine", "crop", "camera"]
    strength: float
    erase: float


def read_recipe(values: Any) -> Training:
    """A training's recipe from JSON values; see ``read_plain``."""
    recipe: Training = read_plain(Training, values, "recipe")
    return recipe


def read_plain(kind: Any, values: Any, where: str) -> Any:
    """A dataclass from JSON values. ``FerError`` names an unknown, missing or impossible field."""
    if not isinstance(values, dict):
        raise FerError(f"{where} is {values!r}", allowed=f"a table for {kind.__name__}")
    known = {field.name: field for field in fields(kind)}
    unknown = set(values) - set(known)
    if unknown:
        raise FerError(f"{where} has unknown fields {sorted(unknown)}", allowed=", ".join(known))
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise FerError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    try:
        return kind(
            **{
                name: _field(hints[name], value, f"{where}.{name}")
                for name, value in values.items()
            }
        )
    except (TypeError, ValueError) as error:
        raise FerError(f"{where}: {error}") from error


def _field(hint: Any, value: Any, where: str) -> Any:
    options = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    tables = [option for option in options if is_dataclass(option)]
    if tables and value is not None:
        if len(tables) == 1:
            return read_plain(tables[0], value, where)
        kinds = {fields(option)[0].default: option for option in tables}
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in kinds:
            raise FerError(f"{where}.kind is {kind!r}", allowed=", ".join(map(str, kinds)))
        return read_plain(kinds[kind], value, where)
    for option in options:
        if typing.get_origin(option) is Literal and value not in typing.get_args(option):
            raise FerError(f"{where} is {value!r}", allowed=list(typing.get_args(option)))
        numeric = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(option)
        fits = numeric is None or (
            isinstance(value, numeric) and (option is bool or not isinstance(value, bool))
        )
        if fits or (value is None and type(None) in options):
            return tuple(value) if isinstance(value, list) else value
    raise FerError(f"{where} is {value!r}", allowed=str(hint))
