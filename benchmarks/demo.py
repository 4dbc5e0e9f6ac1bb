"""Time of the demo's frame against the bare library calls; its start, and its smoothing.

python benchmarks/demo.py [--bundle FOLDER ...] [--clips FOLDER] [--frames 300] [--rounds 3]
                          [--json FILE]

The frames are a real clip, looped and scaled to 640x480. MobileNetV3-Large at 224 px has random
weights, which do not change the time; the students are those of ``--bundle``, or the shipped one.
Flips are counted for students, on all clips.
"""

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from demo_app.detection import Detector, HaarDetector, YuNetDetector
from demo_app.faces import prepare_faces
from demo_app.kpis import compute_kpis
from demo_app.logs import PER_FRAME_FILE, SessionLog
from demo_app.parameters import parameters_for
from demo_app.pipeline import Control, Pipeline
from demo_app.shipped import SHIPPED
from demo_app.sources import Frame, Video
from demo_app.stabilisation import step_response_s
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import MODEL_FILE, Bundle, Card, load_bundle, write_card
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.images.pixels import normalise

SIZE_PX = (640, 480)
FPS = 30
SHARED = Path(__file__).resolve().parents[2] / "shared"


def looped(clip: Path, count: int) -> list[np.ndarray]:
    """Return ``count`` frames of a clip, repeated as needed, as ``[480, 640, 3] uint8 RGB``."""
    with Video(clip) as video:
        images = [cv2.resize(frame.image, SIZE_PX) for frame in video.frames()]
    return list(islice(cycle(images), count))


def frames_of(images: Sequence[np.ndarray], fps: float = FPS) -> Iterator[Frame]:
    for index, image in enumerate(images):
        yield Frame(index, round(index / fps, 6), image)


def random_bundle(folder: Path, size: int) -> Bundle:
    from fer_ml.bundles.export import Exporter
    from fer_ml.recipes.builtin import paper
    from fer_ml.training.checkpoint import Checkpoint
    from fer_ml.training.models import build_model

    profile = paper()
    recipe = replace(profile.students["ce"], init="none")
    spec = replace(profile.preprocess, size=size)
    folder.mkdir()
    weights = build_model(recipe).state_dict()
    Exporter().write(Checkpoint(weights, recipe, spec, CLASSES, 0), folder / MODEL_FILE)
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
    """Return the time in ms of OpenCV's own call, on an image reduced beforehand."""
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
    """Return the time in ms of ONNX Runtime's own call, on an input normalised beforehand."""
    batch = normalise(faces, bundle.card.preprocess)
    start = time.perf_counter()
    bundle.session.run(["logits"], {"input": batch})
    return 1e3 * (time.perf_counter() - start)


def bare_ms(
    bundle: Bundle, detector: Detector, image: np.ndarray, faces: np.ndarray | None
) -> float | None:
    """Return the time in ms of both bare calls on one frame; None without a face."""
    if faces is None:
        return None
    return bare_detector_ms(detector, image) + bare_network_ms(bundle, faces)


def frame_figures(
    bundle: Bundle, detector: Detector, images: Sequence[np.ndarray]
) -> dict[str, float]:
    """Measure one pass: each whole frame with its log, then the bare calls on the same frame."""
    whole, bare = [], []
    # Beforehand: right after another search, the bare one would find the detector in the cache,
    # where the demo's search, after a network, never finds it.
    found = [detector.detect(image) for image in images]
    faces = [
        prepare_faces(image, here, bundle, detector.name) if here else None
        for image, here in zip(images, found, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        parameters = parameters_for(bundle.card)
        log = SessionLog(Path(folder, "s"), bundle, detector.name, parameters, record=False)
        pipeline, control = Pipeline(bundle, detector), Control(parameters)
        for frame in frames_of(images):
            # By turns, so that neither always finds the other's data in the cache.
            known = faces[frame.index]
            calls = bare_ms(bundle, detector, frame.image, known) if frame.index % 2 else None
            start = time.perf_counter()
            result = pipeline.process(frame, control)
            log.write_frame(result)
            took = 1e3 * (time.perf_counter() - start)
            if not frame.index % 2:
                calls = bare_ms(bundle, detector, frame.image, known)
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


def smoothing_figures(
    bundle: Bundle, detector: Detector, clips: Sequence[Path]
) -> Iterator[Figure]:
    """Yield flips of real clips at their own rate, looped for a minute; and the smoothing delay.

    No label is withheld as unsure here, because a label that is not shown cannot flip.
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
    name, minutes = bundle.card.name, seconds / 60
    yield Figure(
        name=f"flips a minute, raw, {name}",
        measured=raw / minutes,
        unit="",
        note=f"Over {minutes:.1f} minutes of faces, nothing withheld as unsure.",
    )
    yield Figure(name=f"flips a minute, shown, {name}", measured=shown / minutes, unit="")
    yield Figure(name=f"share of unstable faces, {name}", measured=unstable / faces, unit="")
    yield Figure(
        name="delay until a clean change of expression is shown",
        measured=step_response_s(parameters),
        unit="s",
    )


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
from fer_ml.bundles.bundle import load_bundle
bundle = load_bundle(Path(sys.argv[1]))
pipeline = Pipeline(bundle, make_detector("yunet"))
with open_source(Path(sys.argv[2]), bundle) as source:
    pipeline.process(next(source.frames()), Control(parameters_for(bundle.card)))
print(time.perf_counter() - start)
"""


def startup_s(bundle: Bundle, clip: Path) -> float:
    """Return the seconds from starting an interpreter to the first labelled frame."""
    done = subprocess.run(
        [sys.executable, "-c", STARTUP, str(bundle.folder), str(clip)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def figures_of(name: str, rounds: Sequence[dict[str, float]]) -> Iterator[Figure]:
    """Yield the figures of a student with a detector: ratio to the bare calls, and ms."""
    yield Figure.of(
        f"a whole frame, {name}",
        [found["whole_over_bare"] for found in rounds],
        over="bare detector and bare ONNX Runtime call",
        at_most=1.15,
        note="It adds the shrinking, and the cutting and CLAHE of the face.",
    )
    p50 = [f["whole_ms_p50"] for f in rounds]
    yield Figure.of(f"a whole frame, {name}, p50", p50, "ms", at_most=25.0)
    yield Figure.of(f"a whole frame, {name}, p95", [f["whole_ms_p95"] for f in rounds], "ms")
    yield Figure.of(f"frames a second, {name}", [f["fps"] for f in rounds], "")


def face_ms(bundle: Bundle) -> list[float]:
    """Return the median ms of 100 network calls on one face and one core, for each round."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        bundle.folder / MODEL_FILE, options, providers=["CPUExecutionProvider"]
    )
    size = bundle.card.preprocess.size
    face = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    found = []
    for _ in range(5):
        calls = []
        for _ in range(100):
            start = time.perf_counter()
            session.run(["logits"], {"input": face})
            calls.append(1e3 * (time.perf_counter() - start))
        found.append(statistics.median(calls))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument("--clips", type=Path, default=SHARED / "data" / "faces")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    clips = sorted(given.clips.glob("*.gif"))
    if not clips:
        raise SystemExit(f"no *.gif in {given.clips}")
    one_face = clips[-1]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        students = [load_bundle(path) for path in given.bundle or [SHIPPED]]
        bundles = [random_bundle(Path(folder, "224"), 224), *students]
        images = looped(one_face, given.frames)
        for bundle in bundles:
            size = bundle.card.preprocess.size
            for detector in (
                YuNetDetector(320),
                YuNetDetector(),
                HaarDetector(),
            ):
                name = f"{size} px, {detector.name} at {detector._width_px} px"
                rounds = [frame_figures(bundle, detector, images) for _ in range(given.rounds)]
                figures += figures_of(name, rounds)
            limit = {"at_most": 6.0} if bundle in students else {}
            name = f"the network of {size} px, one face on one core"
            figures.append(Figure.of(name, face_ms(bundle), "ms", **limit))
        starts = [startup_s(bundles[-1], one_face) for _ in range(given.rounds)]
        figures.append(
            Figure.of("from a fresh interpreter to the first labelled frame", starts, "s")
        )
        yunet = YuNetDetector()
        for bundle in students:
            figures += smoothing_figures(bundle, yunet, clips)
    publish(
        Benchmark(
            title="The demo",
            data=f"One face ({one_face.name}, looped), 640x480. At 224 px the weights are random, "
            "which does not change the time; the other network is "
            f"{', '.join(bundle.card.name for bundle in students)}.",
            figures=tuple(figures),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
