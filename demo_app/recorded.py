"""Actions on a finished recording: replay, score, delete."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo_app.detection import Detector
from demo_app.faces import FrameResult
from demo_app.kpis import compute_kpis
from demo_app.logs import PER_FRAME_FILE, recorded_frames
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control, Pipeline
from demo_app.sources import Recording
from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file
from fer_ml.bundles.bundle import Bundle

#: Of the key figures those that a page shows; the manual ones are there where somebody labelled.
SHOWN = (
    "frames",
    "faces",
    "tracks",
    "face_found_rate",
    "flips_per_minute_raw",
    "flips_per_minute_stabilised",
    "unsure_share",
    "too_small_share",
    "unstable_share",
    "manual_accuracy_raw",
    "manual_accuracy_stabilised",
)


def replayed(folder: Path, bundle: Bundle, detector: Detector) -> Iterator[tuple[FrameResult, str]]:
    """Yield each recorded frame processed by the current student, and its picture as a data URL."""
    pipeline = Pipeline(bundle, detector)
    control = Control(parameters_for(bundle.card))
    with Recording(folder, bundle) as recording:
        stored = (frame.file for frame in recorded_frames(folder))
        for frame, file in zip(recording.frames(), stored, strict=True):
            if frame.parameters is not None:
                control.parameters, control.manual_label = frame.parameters, frame.manual_label
            kind = "jpeg" if file.suffix == ".jpg" else "png"
            picture = base64.b64encode(read_file(file)).decode()
            yield pipeline.process(frame, control), f"data:image/{kind};base64,{picture}"


def score(folder: Path) -> dict[str, Any]:
    """Return the key figures that a page shows, by their names in ``fer demo score``."""
    kpis = compute_kpis(folder / PER_FRAME_FILE, None)
    return {name: kpis[name] for name in SHOWN if name in kpis}


def delete(folder: Path) -> None:
    """Delete a recording: its frames and its log."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise FerError(
            f"the recording cannot be deleted: {error.strerror}",
            code="recording-not-deleted",
            where=folder,
            fix="delete the folder by hand",
        ) from error
