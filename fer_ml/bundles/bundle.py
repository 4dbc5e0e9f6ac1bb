"""A deployable model: ``model.onnx`` and its ``card.json``. Needs no torch.

The card carries everything that serving must not guess: class order, preprocessing, temperature,
thresholds, and the sha256 of the network. A bundle whose bytes do not match its card is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnxruntime
from pydantic import AfterValidator, Field, ValidationError

from fer_ml.base.errors import FerError, first_fault
from fer_ml.base.labels import CLASSES
from fer_ml.base.plain import Plain
from fer_ml.base.reading import parse_json, read_file
from fer_ml.base.versions import known_version, upgraded
from fer_ml.bundles.network import MAX_BYTES, check_network, open_network
from fer_ml.images.pixels import normalise
from fer_ml.recipes.preprocess import FRAMES, Frame, Preprocess

MODEL_FILE = "model.onnx"
CARD_FILE = "card.json"
#: Written beside them by the export: how far torch and ONNX Runtime differ on faces.
PARITY_FILE = "parity.json"
#: No card needs more bytes.
MAX_CARD = 4_000_000
#: The folder of a buffer's images names the recorded session that they are from.
SESSION_FOLDER = r"(?:^|/)session-([0-9a-f]{16})/"


#: A share in 0..1, and both bounds of its 95% interval.
Share = tuple[float, float, float]


class Shares(Plain):
    """What a threshold gives on some faces: shares answered, and wrong of the answers.

    ``bound`` is the upper bound of the risk with 95% confidence; ``risk`` is null without answers.
    """

    bound: float
    coverage: Share
    risk: Share | None


class Threshold(Plain):
    """A confidence threshold: of the answers at or above it, at most ``wanted_risk`` are wrong.

    ``bound`` is the upper bound of the risk with 95% confidence, from calib. It is null on cards of
    earlier versions, whose thresholds met the risk on calib only. ``coverage`` and ``risk`` are
    shares on calib: the value, and both bounds of its 95% interval. All four are null where no
    threshold has such a bound. ``corrupted`` is what it gives on corrupted faces of calib, and
    ``holds_corrupted`` whether it was chosen so that the bound holds there too; null on cards of
    versions 1 and 2.
    """

    wanted_risk: float
    threshold: float | None
    bound: float | None = None
    coverage: Share | None
    risk: Share | None
    corrupted: Shares | None = None
    holds_corrupted: bool | None = None


class Card(Plain):
    """``card.json``: a bundle's identity, its input format, and its origin.

    - ``temperature``: divides the logits before the softmax.
    - ``unsure_below``: the calibrated confidence under which the demo says 'unsure'; one of the
      thresholds in ``abstention``, or 1 if there is none.
    - ``least_px``: side of the square, in px of the picture, under which a face is 'too small'; 0
      on cards of versions 1 and 2, which know no such limit.
    - ``least_log_sum_exp``: of the logits, in nats, under which a face is unlike those of calib and
      'unsure', by minus the free energy (Liu et al. 2020); null for no such limit.
    - ``frames``: by detector, the square that is cut for a face, so that it matches the training.
    - ``metrics``, ``lineage``: for people to read.
    - ``sessions``: recorded sessions (sha256 of their log) used in training, on which the model
      must not be scored.
    """

    schema_version: Annotated[int, AfterValidator(known_version)] = 3
    name: str
    profile: str
    architecture: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    frames: dict[str, Frame] = FRAMES
    temperature: float = Field(gt=0)
    unsure_below: float = Field(ge=0, le=1)
    least_px: int = Field(default=0, ge=0)
    least_log_sum_exp: float | None = None
    abstention: tuple[Threshold, ...] = ()
    model_sha256: str
    checkpoint_sha256: str
    data: str
    licence: str
    intended_use: str
    metrics: dict[str, Any] = {}
    lineage: dict[str, Any] = {}
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    sessions: tuple[str, ...] = ()

    def frame_of(self, detector: str) -> Frame:
        """Return the square cut for a box of ``detector``; ``FerError`` for an unknown detector."""
        if detector not in self.frames:
            raise FerError(
                f"the card of the bundle has no frame for boxes of {detector!r}",
                code="unknown-frame",
                where="card field frames",
                allowed=", ".join(self.frames),
                fix="use a detector that the card names",
            )
        return self.frames[detector]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return ``probs [N, C]``: softmax of ``logits [N, C]`` divided by the temperature."""
        scaled = logits / self.temperature
        scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return scaled / scaled.sum(axis=1, keepdims=True)

    def familiar(self, logits: np.ndarray) -> np.ndarray:
        """Return whether each of ``logits [N, C]`` is like those of calib: ``[N] bool``."""
        if self.least_log_sum_exp is None:
            return np.array([True] * len(logits), bool)
        return log_sum_exp(logits) >= self.least_log_sum_exp

    def answers(self, logits: np.ndarray, sides_px: np.ndarray) -> np.ndarray:
        """Return which faces are answered, ``[N] bool``: large, familiar and sure enough."""
        sure = self.probabilities(logits).max(axis=1) >= self.unsure_below
        return (sides_px >= self.least_px) & self.familiar(logits) & sure


def log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Return the log of the summed exponentials of ``logits [N, C]``: ``[N] float64``, in nats."""
    values = np.asarray(logits, np.float64)
    top = values.max(axis=1)
    return top + np.log(np.exp(values - top[:, None]).sum(axis=1))


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, ready to run on the CPU. ``sha256`` is the hash of its ``card.json``."""

    folder: Path
    card: Card
    sha256: str
    session: onnxruntime.InferenceSession

    def logits(self, faces: np.ndarray) -> np.ndarray:
        """Map ``faces [N, S, S, 3] uint8`` from ``images.prepare`` to ``logits [N, C] float32``."""
        return self.session.run(["logits"], {"input": normalise(faces, self.card.preprocess)})[0]

    def probabilities(self, faces: np.ndarray) -> np.ndarray:
        """Return ``probs [N, C]``: softmax of the logits divided by the card's temperature."""
        return self.card.probabilities(self.logits(faces))


def read_card(folder: Path) -> Card:
    """Read and check ``card.json``; ``FerError`` names the field that is wrong."""
    return _card_and_hash(folder)[0]


def _card_and_hash(folder: Path) -> tuple[Card, str]:
    path = folder / CARD_FILE
    try:
        data = read_file(path, MAX_CARD)
        document = parse_json(data, path)
        values = upgraded(CARD_FILE, document, path) if isinstance(document, dict) else document
        return Card.from_plain(values, path), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise FerError(
            "the folder is not a bundle",
            code="missing-bundle",
            where=path,
            allowed=f"a folder with {MODEL_FILE} and {CARD_FILE}",
            fix="run 'fer materialize', or pass --bundle FOLDER",
        ) from error
    except ValidationError as error:
        raise FerError(
            f"the card of the bundle is invalid: {first_fault(error)}",
            code="invalid-card",
            where=path,
            fix="export the bundle again",
        ) from error


def load_bundle(folder: Path, *, threads: int = 1) -> Bundle:
    """Open a bundle for inference; ``FerError`` when its bytes differ from its card.

    Its network is hashed, then checked, then loaded: see ``network``.
    """
    card, sha256 = _card_and_hash(folder)
    if card.classes != CLASSES:
        raise FerError(
            f"the bundle orders its classes as {list(card.classes)}",
            code="wrong-class-order",
            where=folder / CARD_FILE,
            allowed=list(CLASSES),
        )
    path = folder / MODEL_FILE
    try:
        data = read_file(path, MAX_BYTES)
    except OSError as error:
        raise FerError(
            f"the bundle lacks {MODEL_FILE}: {error.strerror}",
            code="bundle-incomplete",
            where=folder,
            fix="export it again",
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.model_sha256:
        raise FerError(
            f"{MODEL_FILE} has sha256 {digest[:12]}, its card says {card.model_sha256[:12]}",
            code="bundle-changed",
            where=folder,
            fix="export the bundle again: these are not the bytes that were measured",
        )
    check_network(data, path, card.preprocess.size)
    session = open_network(data, path, threads=threads)
    return Bundle(folder, card, sha256, session)


def write_card(folder: Path, card: Card) -> None:
    """Write ``card.json`` into ``folder``, a run directory that the export has not finished."""
    text = json.dumps(card.model_dump(mode="json"), indent=2) + "\n"
    (folder / CARD_FILE).write_bytes(text.encode())
