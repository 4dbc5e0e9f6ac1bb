"""The demo's frame against the bare calls that it cannot do without, its start, and its smoothing.

python benchmarks/demo.py [--bundle FOLDER ...] [--clips FOLDER] [--yunet FILE] [--frames 300]
                          [--rounds 3] [--docs docs/demo.md]

The frames are a real clip, looped and scaled to 640x480. Without ``--bundle`` two networks with
random weights are exported: MobileNetV3-Large at 224 px, and at 48 px with a stem of stride 1;
weights do not change the time. Flips are counted only for bundles that are named, on all clips.
``--docs`` writes the figures between the marks of that file.
"""

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from demo_app.detection import Detector, HaarDetector, YuNetDetector
from demo_app.faces import prepare_faces
from demo_app.kpis import compute_kpis
from demo_app.logs import PER_FRAME_FILE, SessionLog
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control, Pipeline
from demo_app.sources import Frame, Video
from demo_app.stabilisation import step_response_s
from fer_ml.bundle import MODEL_FILE, Bundle, Card, load_bundle, write_card
from fer_ml.images import normalise
from fer_ml.labels import CLASSES

SIZE_PX = (640, 480)
FPS = 30
SHARED = Path(__file__).resolve().parents[2] / "shared"


def looped(clip: Path, count: int) -> list[np.ndarray]:
    """``count`` frames of a clip, over and over, as ``[480, 640, 3] uint8 RGB``."""
    with Video(clip) as video:
        images = [cv2.resize(frame.image, SIZE_PX) for frame in video.frames()]
    return list(islice(cycle(images), count))


def frames_of(images: Sequence[np.ndarray], fps: float = FPS) -> Iterator[Frame]:
    for index, image in enumerate(images):
        yield Frame(index, round(index / fps, 6), image)


def random_bundle(folder: Path, size: int, stem_stride: int) -> Bundle:
    from fer_ml.export import export_onnx
    from fer_ml.profiles import paper
    from fer_ml.training.checkpoint import Checkpoint
    from fer_ml.training.models import build_model

    profile = paper()
    recipe = replace(profile.students["ce"], init="none", stem_stride=stem_stride)
    spec = replace(profile.preprocess, size=size)
    folder.mkdir()
    weights = build_model(recipe).state_dict()
    export_onnx(Checkpoint(weights, recipe, spec, CLASSES, 0), folder / MODEL_FILE)
    card = Card(
        name=f"random weights, {size} px",
        profile="benchmark",
        architecture=recipe.architecture,
        classes=CLASSES,
        preprocess=spec,
        temperature=1.0,
        unsure_below=0.4,
        model_sha256=hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest(),
        checkpoint_sha256="0" * 64,
        data="none",
        licence="none",
        intended_use="benchmark",
    )
    write_card(folder, card)
    return load_bundle(folder)


def bare_detector_ms(detector: Detector, image: np.ndarray) -> float:
    """OpenCV's own call, on a copy that is small already."""
    width = detector._width_px  # type: ignore[attr-defined]
    small = cv2.resize(
        image, (width, image.shape[0] * width // image.shape[1]), interpolation=cv2.INTER_AREA
    )
    if isinstance(detector, YuNetDetector):
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        detector._net.setInputSize((bgr.shape[1], bgr.shape[0]))
        start = time.perf_counter()
        detector._net.detect(bgr)
    else:
        assert isinstance(detector, HaarDetector)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        start = time.perf_counter()
        detector._cascade.detectMultiScale2(grey, scaleFactor=1.1, minNeighbors=3, minSize=(24, 24))
    return 1e3 * (time.perf_counter() - start)


def bare_network_ms(bundle: Bundle, faces: np.ndarray) -> float:
    """ONNX Runtime's own call, on an input that is normalised already."""
    batch = normalise(faces, bundle.card.preprocess)
    start = time.perf_counter()
    bundle.session.run(["logits"], {"input": batch})
    return 1e3 * (time.perf_counter() - start)


def bare_ms(bundle: Bundle, detector: Detector, image: np.ndarray) -> float | None:
    """Both bare calls on one frame; None without a face."""
    found = detector.detect(image)
    if not found:
        return None
    faces = prepare_faces(image, found, bundle)
    return bare_detector_ms(detector, image) + bare_network_ms(bundle, faces)


def frame_figures(
    bundle: Bundle, detector: Detector, images: Sequence[np.ndarray]
) -> dict[str, float]:
    """One pass: each frame whole, log included, and the bare calls on the same frame, in turn."""
    whole, bare = [], []
    with tempfile.TemporaryDirectory() as folder:
        parameters = parameters_for(bundle.card)
        log = SessionLog(Path(folder, "s"), bundle, detector.name, parameters, record=False)
        pipeline, control = Pipeline(bundle, detector), Control(parameters)
        for frame in frames_of(images):
            # By turns, so that neither always finds the other's data in the cache.
            calls = bare_ms(bundle, detector, frame.image) if frame.index % 2 else None
            start = time.perf_counter()
            result = pipeline.process(frame, control)
            log.write_frame(result)
            took = 1e3 * (time.perf_counter() - start)
            if not frame.index % 2:
                calls = bare_ms(bundle, detector, frame.image)
            if result.faces and calls is not None and frame.index >= 10:
                whole.append(took)
                bare.append(calls)
        log.finish({})
    return {
        "frames": len(whole),
        "whole_over_bare": statistics.median(whole) / statistics.median(bare),
        "bare_ms_p50": statistics.median(bare),
        "whole_ms_p50": statistics.median(whole),
        "whole_ms_p95": float(np.percentile(whole, 95)),
        "fps": 1e3 * len(whole) / sum(whole),
    }


def smoothing_figures(bundle: Bundle, detector: Detector, clips: Sequence[Path]) -> dict[str, Any]:
    """Flips of real clips at their own rate, each looped for a minute; the delay of a clean step.

    Nothing is withheld as unsure here: a label that is not shown cannot flip.
    """
    parameters = parameters_for(bundle.card).model_copy(update={"unsure_below": 0.0})
    raw = shown = seconds = unstable = faces = 0.0
    for clip in clips:
        with Video(clip) as video:
            fps = video.fps or FPS
        images = looped(clip, round(60 * fps))
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "s")
            log = SessionLog(out, bundle, detector.name, parameters, record=False)
            pipeline, control = Pipeline(bundle, detector), Control(parameters)
            for frame in frames_of(images, fps):
                log.write_frame(pipeline.process(frame, control))
            log.finish({})
            kpis = compute_kpis(out / PER_FRAME_FILE, None)
        raw += kpis["flips_raw"]
        shown += kpis["flips_stabilised"]
        seconds += kpis["track_seconds"]
        unstable += kpis["unstable_share"] * kpis["faces"]
        faces += kpis["faces"]
    return {
        "bundle": bundle.card.name,
        "track_minutes": seconds / 60,
        "flips_a_minute_raw": 60 * raw / seconds,
        "flips_a_minute_shown": 60 * shown / seconds,
        "shown_over_raw": shown / raw if raw else None,
        "unstable_share": unstable / faces,
        "step_response_s": step_response_s(parameters),
    }


STARTUP = """
import time
start = time.perf_counter()
import sys
from pathlib import Path
import numpy as np
from demo_app.detection import make_detector
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control, Pipeline
from demo_app.sources import open_source
from fer_ml.bundle import load_bundle
bundle = load_bundle(Path(sys.argv[1]))
yunet = Path(sys.argv[2]) if sys.argv[2] else None
pipeline = Pipeline(bundle, make_detector("auto", yunet))
with open_source(Path(sys.argv[3]), bundle) as source:
    pipeline.process(next(source.frames()), Control(parameters_for(bundle.card)))
print(time.perf_counter() - start)
"""


def startup_s(bundle: Bundle, yunet: Path | None, clip: Path) -> float:
    """From a fresh interpreter to the first labelled frame."""
    done = subprocess.run(
        [sys.executable, "-c", STARTUP, str(bundle.folder), str(yunet or ""), str(clip)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def write_block(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a file."""
    whole = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = whole.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} has no marks {begin.strip()} and {end}")
    path.write_text(f"{before}{begin}{text.rstrip()}\n{found}{after}", encoding="utf-8")


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--clips", type=Path, default=SHARED / "data" / "faces")
    parser.add_argument(
        "--yunet", type=Path, default=SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    )
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args()
    clips = sorted(given.clips.glob("*.gif"))
    one_face = clips[-1]
    found: dict[str, Any] = {"machine": machine(), "clip": one_face.name, "frame": []}
    with tempfile.TemporaryDirectory() as folder:
        named = [load_bundle(path) for path in given.bundle]
        bundles = named or [
            random_bundle(Path(folder, str(size)), size, stride)
            for size, stride in ((224, 2), (48, 1))
        ]
        images = looped(one_face, given.frames)
        for bundle in bundles:
            for detector in (
                YuNetDetector(given.yunet, 320),
                YuNetDetector(given.yunet),
                HaarDetector(),
            ):
                rounds = [frame_figures(bundle, detector, images) for _ in range(given.rounds)]
                found["frame"].append(
                    {
                        "size_px": bundle.card.preprocess.size,
                        "detector": f"{detector.name} at {detector._width_px} px",
                        **median_of(rounds),
                    }
                )
                print(json.dumps(found["frame"][-1]), flush=True)
        starts = [startup_s(bundles[-1], given.yunet, one_face) for _ in range(5)]
        found["first_frame_s"] = statistics.median(starts)
        yunet = YuNetDetector(given.yunet)
        found["smoothing"] = [smoothing_figures(bundle, yunet, clips) for bundle in named]
    print(json.dumps(found, indent=2))
    if given.docs:
        write_block(given.docs, "frame", as_markdown(found))


def as_markdown(found: dict[str, Any]) -> str:
    lines = [
        f"One face ({found['clip']}), 640x480, {found['machine']}. Medians of the rounds.",
        "",
        "| student | detector | whole frame / bare calls | bare ms | frame ms p50 | p95 | FPS |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['size_px']} px | {row['detector']} | {row['whole_over_bare']:.2f} "
        f"| {row['bare_ms_p50']:.1f} | {row['whole_ms_p50']:.1f} | {row['whole_ms_p95']:.1f} "
        f"| {row['fps']:.0f} |"
        for row in found["frame"]
    ]
    lines += [
        "",
        f"From a fresh interpreter to the first labelled frame: {found['first_frame_s']:.2f} s.",
    ]
    for row in found["smoothing"]:
        lines += [
            "",
            f"Smoothing of `{row['bundle']}` over {row['track_minutes']:.1f} minutes of faces: "
            f"{row['flips_a_minute_raw']:.1f} flips a minute raw, "
            f"{row['flips_a_minute_shown']:.1f} shown (shown over raw: "
            f"{row['shown_over_raw']:.3f}) with nothing withheld as unsure, "
            f"{row['unstable_share']:.1%} of faces unstable; a clean change of expression is shown "
            f"after {row['step_response_s']:.2f} s.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
