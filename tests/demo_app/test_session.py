import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from demo_app.detection import Detection, make_detector
from demo_app.faces import FrameResult
from demo_app.kpis import compute_kpis
from demo_app.parameters import Parameters, parameters_for
from demo_app.pipeline import Control
from demo_app.session import run_session
from demo_app.sources import Video
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import MODEL_FILE, Bundle, load_bundle
from fer_ml.images.pixels import encode_png, prepare
from fer_ml.sample.video import draw_video
from tests.machine import POSIX
from tests.refusals import refused

SETTINGS = Parameters(
    ema_tau_s=0.2, hysteresis_delta=0.1, unsure_below=0.4, vote_s=0.2, vote_share=0.51, gap_s=0.5
)
LEFT, RIGHT = (8, 8, 56, 56), (72, 8, 120, 56)
OLD_COLUMNS = (
    "frame_index,time_sec,manual_label,pred_label,prob_Angry,prob_Disgust,prob_Fear,prob_Happy,"
    "prob_Sad,prob_Surprise,prob_Neutral,detector,model,ckpt"
)
NEW_COLUMNS = (
    "raw_label,smoothed_label,state,abstain,face_found,track_id,bbox_left,bbox_top,bbox_right,"
    "bbox_bottom,score,detector_looked,capture_ms,detect_ms,align_ms,classify_ms,smooth_ms,"
    "draw_ms,frame_ms,temperature,bundle_sha256,parameters_sha256"
)
TIMES = {name for name in NEW_COLUMNS.split(",") if name.endswith("_ms")}


class Eye:
    """A view that calls a function with each frame and may stop the run."""

    def __init__(self, see: Callable[[FrameResult, Control], object]) -> None:
        self._see = see

    def draw(self, frame: FrameResult) -> None:
        pass

    def react(self, frame: FrameResult, control: Control) -> None:
        self._see(frame, control)


def picture(left: int, right: int) -> np.ndarray:
    """Two 'faces' side by side: 0 is a sad one, 255 a happy one, 128 neither."""
    image = np.full((64, 128, 3), left, np.uint8)
    image[:, 64:] = right
    return image


def faces(*boxes: tuple[int, int, int, int]) -> list[Detection]:
    return [Detection(box, 0.9) for box in boxes]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(bundle, scripted, write_video, tmp_path: Path) -> Callable:
    """Run scripted detections over pictures at 10 fps into ``tmp_path / out``."""

    def go(pictures, detections, *, out="out", settings=SETTINGS, **options):
        video = write_video(pictures, name=f"{out}.avi")
        return run_session(video, bundle, scripted(detections), tmp_path / out, settings, **options)

    return go


def test_the_log_begins_with_the_old_columns(run, tmp_path: Path) -> None:
    run([picture(255, 0)] * 2, [faces(LEFT, RIGHT)] * 2)
    with (tmp_path / "out" / "per_frame.csv").open() as file:
        assert next(file).rstrip() == f"{OLD_COLUMNS},{NEW_COLUMNS}"


def test_a_row_for_each_face_and_one_without(run, tmp_path: Path) -> None:
    summary = run([picture(255, 0)] * 3, [faces(LEFT, RIGHT), [], faces(RIGHT)])
    rows = read(tmp_path / "out" / "per_frame.csv")
    assert [row["frame_index"] for row in rows] == ["0", "0", "1", "2"]
    assert [row["time_sec"] for row in rows] == ["0.000000", "0.000000", "0.100000", "0.200000"]
    assert [row["pred_label"] for row in rows] == ["Happy", "Sad", "", "Sad"]
    assert [row["track_id"] for row in rows] == ["0", "1", "", "1"]
    empty = rows[2]
    assert (empty["state"], empty["face_found"], empty["raw_label"]) == ("no_face", "0", "")
    assert all(empty[f"prob_{name}"] == "" for name in CLASSES)
    assert empty["classify_ms"] == "" and float(empty["frame_ms"]) > 0
    assert (rows[0]["detector"], rows[0]["model"], rows[0]["ckpt"]) == (
        "scripted",
        "brightness",
        "c" * 12,
    )
    assert (rows[0]["temperature"], rows[0]["manual_label"]) == ("1.5", "")
    assert (summary.frames, summary.faces, summary.frames_with_face) == (3, 3, 2)
    assert summary.ended == "end"


def test_logged_probabilities_are_those_of_the_bundles_own_preprocessing(
    bundle, run, write_video, tmp_path: Path
) -> None:
    run([picture(200, 90)], [faces(LEFT, RIGHT)])
    with Video(tmp_path / "out.avi") as video:
        image = next(video.frames()).image
    for row, box in zip(read(tmp_path / "out" / "per_frame.csv"), (LEFT, RIGHT), strict=True):
        alone = bundle.probabilities(prepare(image, box, bundle.card.preprocess)[None])[0]
        assert [float(row[f"prob_{name}"]) for name in CLASSES] == pytest.approx(alone, abs=1e-6)


def test_unsure_is_a_state_without_a_label(run, tmp_path: Path) -> None:
    run([picture(128, 128)], [faces(LEFT)])
    (row,) = read(tmp_path / "out" / "per_frame.csv")
    assert (row["state"], row["face_found"], row["pred_label"]) == ("unsure", "1", "")
    assert row["raw_label"] in CLASSES
    assert read(tmp_path / "out" / "events.csv") == []


def _smoothed(run: Callable, out: str, pictures, detections, track_at) -> list:
    seen = []

    def keep(frame: FrameResult, control: Control) -> None:
        seen.extend(face.state for face in frame.faces if face.box_xyxy_px == track_at)

    run(pictures, detections, out=out, view=Eye(keep))
    return seen


def test_smoothing_never_mixes_faces(run) -> None:
    pictures = [picture(255 if i % 3 else 60, 0 if i % 4 else 200) for i in range(12)]
    # The order of the detections changes from frame to frame; the faces do not.
    both = [faces(LEFT, RIGHT) if i % 2 else faces(RIGHT, LEFT) for i in range(12)]
    for name, box in (("left", LEFT), ("right", RIGHT)):
        together = _smoothed(run, f"both_{name}", pictures, both, box)
        alone = _smoothed(run, name, pictures, [faces(box)] * 12, box)
        assert together == alone


def test_another_person_at_the_same_place_starts_fresh(run, tmp_path: Path) -> None:
    pictures = [picture(255, 0)] * 2 + [picture(0, 0)] * 8
    run(pictures, [faces(LEFT)] * 2 + [[]] * 6 + [faces(LEFT)] * 2)
    rows = read(tmp_path / "out" / "per_frame.csv")
    assert [(row["pred_label"], row["track_id"]) for row in rows[-2:]] == [("Sad", "1")] * 2


def test_events_are_stretches_of_a_label(run, tmp_path: Path) -> None:
    pictures = [picture(255, 0)] * 5 + [picture(0, 0)] * 10
    detections = [faces(LEFT, RIGHT)] * 15
    detections[2] = faces(RIGHT)
    summary = run(pictures, detections)
    rows = read(tmp_path / "out" / "events.csv")
    assert list(rows[0])[:6] == [
        "label",
        "start_frame",
        "end_frame",
        "start_time_sec",
        "end_time_sec",
        "source",
    ]
    left = [row for row in rows if row["track_id"] == "0"]
    assert [row["label"] for row in left] == ["Happy", "Sad"]
    assert left[0]["start_frame"] == "0" and left[1]["end_frame"] == "14"
    (right,) = (row for row in rows if row["track_id"] == "1")
    assert (right["label"], right["start_frame"], right["end_frame"]) == ("Sad", "0", "14")
    assert (right["start_time_sec"], right["end_time_sec"]) == ("0.000000", "1.400000")
    assert summary.events == 3


def test_summary_and_thresholds_hold_what_the_run_used(bundle, run, tmp_path: Path) -> None:
    run([picture(255, 0)] * 8, [faces(LEFT)] * 8)
    (row,) = read(tmp_path / "out" / "demoresultssummary.csv")
    assert ",".join(list(row)[:11]) == (
        "time,input,detector,ckpt,model,frames_logged,events_logged,ema_alpha,hysteresis_delta,"
        "vote_window,vote_min_count"
    )
    assert (row["frames_logged"], row["events_logged"], row["hysteresis_delta"]) == (
        "8",
        "1",
        "0.1",
    )
    assert row["ema_alpha"] == row["vote_window"] == row["vote_min_count"] == ""
    assert (row["vote_s"], row["detect_every"], row["parameters_changed"]) == ("0.2", "1", "0")
    assert row["bundle_sha256"] == bundle.sha256
    assert (row["ema_tau_s"], row["ended"], row["video_fps"]) == ("0.2", "end", "10")
    assert (row["width_px"], row["height_px"]) == ("128", "64")
    assert float(row["processed_fps"]) > 0 and row["device"]
    thresholds = json.loads((tmp_path / "out" / "thresholds.json").read_text())
    assert {name: thresholds[name] for name in SETTINGS.model_dump()} == SETTINGS.model_dump()
    assert thresholds["model_sha256"] == bundle.card.model_sha256
    assert thresholds["preprocess_digest"] == bundle.card.preprocess.digest()


def test_parameters_and_labels_of_every_frame_are_logged(run, tmp_path: Path) -> None:
    calmer = SETTINGS.model_copy(update={"vote_s": 0.5})

    def turn(frame: FrameResult, control: Control) -> None:
        if frame.index == 2:
            control.parameters, control.manual_label = calmer, "Happy"

    run([picture(255, 0)] * 6, [faces(LEFT, (72, 8, 100, 40))] * 5 + [[]], view=Eye(turn))
    rows = read(tmp_path / "out" / "per_frame.csv")
    used = [SETTINGS.digest()[:12]] * 6 + [calmer.digest()[:12]] * 5
    assert [row["parameters_sha256"] for row in rows] == used
    # The larger face is the one that is labelled, and a frame without a face keeps the label.
    assert [row["manual_label"] for row in rows] == [""] * 6 + ["Happy", "", "Happy", "", "Happy"]
    thresholds = json.loads((tmp_path / "out" / "thresholds.json").read_text())
    assert thresholds["vote_s"] == SETTINGS.vote_s
    (change,) = thresholds["changes"]
    assert (change["frame_index"], change["vote_s"]) == (3, 0.5)
    manual = [row for row in read(tmp_path / "out" / "events.csv") if row["source"] == "manual"]
    assert [(row["label"], row["start_frame"], row["end_frame"]) for row in manual] == [
        ("Happy", "3", "5")
    ]


def test_a_recorded_session_is_replayed_to_the_same_rows(
    bundle, run, scripted, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(12)]
    found = [faces(LEFT, RIGHT) if i % 4 else [] for i in range(12)]
    calmer = SETTINGS.model_copy(update={"vote_s": 0.5, "detect_every": 2})

    def turn(frame: FrameResult, control: Control) -> None:
        if frame.index == 4:
            control.parameters, control.manual_label = calmer, "Sad"

    run(pictures, found, out="first", record=True, view=Eye(turn))
    replayed = scripted(found)
    summary = run_session(
        tmp_path / "first", bundle, replayed, tmp_path / "second", parameters_for(bundle.card)
    )
    assert (summary.ended, summary.frames) == ("end", 12)
    logs = [
        [{k: v for k, v in row.items() if k not in TIMES} for row in read(tmp_path / out)]
        for out in ("first/per_frame.csv", "second/per_frame.csv")
    ]
    assert logs[0] == logs[1]
    assert {row["manual_label"] for row in logs[0]} == {"", "Sad"}


def test_a_session_that_was_not_recorded_cannot_be_replayed(
    bundle, run, scripted, tmp_path: Path
) -> None:
    run([picture(255, 0)] * 3, [[]] * 3, out="plain")
    with refused("session-not-recorded"):
        run_session(tmp_path / "plain", bundle, scripted([]), tmp_path / "out", SETTINGS)
    run([picture(255, 0)] * 3, [[]] * 3, out="torn", record=True)
    (tmp_path / "torn" / "frames" / "000001.png").unlink()
    with refused("missing-frame"):
        run_session(tmp_path / "torn", bundle, scripted([]), tmp_path / "out", SETTINGS)


def test_the_faces_between_looks_are_where_they_go(run, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"detect_every": 2})
    moving = [faces((8 + 4 * i, 8, 40 + 4 * i, 40)) for i in (0, 2, 4)]
    run([picture(255, 255)] * 6, moving, settings=settings)
    rows = read(tmp_path / "out" / "per_frame.csv")
    assert [row["detector_looked"] for row in rows] == list("101010")
    assert [int(row["bbox_left"]) for row in rows] == [8, 8, 16, 20, 24, 28]
    assert {row["track_id"] for row in rows} == {"0"}


def test_fifty_faces(run, tmp_path: Path) -> None:
    boxes = [(x * 12, y * 12, x * 12 + 10, y * 12 + 10) for x in range(10) for y in range(5)]
    summary = run([picture(255, 0)] * 3, [faces(*boxes)] * 3)
    rows = read(tmp_path / "out" / "per_frame.csv")
    assert summary.faces == len(rows) == 150
    assert len({row["track_id"] for row in rows}) == 50


@pytest.mark.parametrize("size", [(1, 1), (2160, 3840)])
def test_the_smallest_and_the_largest_frames(bundle, size: tuple[int, int], tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(2):
        (folder / f"{index}.png").write_bytes(encode_png(np.zeros((*size, 3), np.uint8)))
    out = tmp_path / "out"
    summary = run_session(folder, bundle, make_detector("haar"), out, SETTINGS)
    assert (summary.ended, summary.frames, summary.faces) == ("end", 2, 0)


def test_two_runs_differ_in_their_times_only(run, tmp_path: Path) -> None:
    pictures = [picture(20 * i, 255 - 20 * i) for i in range(12)]
    logs = []
    for out in ("first", "second"):
        run(pictures, [faces(LEFT, RIGHT)] * 12, out=out)
        rows = read(tmp_path / out / "per_frame.csv")
        logs.append([{k: v for k, v in row.items() if k not in TIMES} for row in rows])
    assert logs[0] == logs[1]


def test_an_interrupt_ends_the_run_with_a_complete_log(run, tmp_path: Path) -> None:
    summary = run([picture(255, 0)] * 6, [faces(LEFT)] * 4 + [KeyboardInterrupt()])
    assert (summary.ended, summary.frames, summary.events) == ("interrupted", 4, 1)
    assert len(read(tmp_path / "out" / "per_frame.csv")) == 4
    assert len(read(tmp_path / "out" / "events.csv")) == 1
    (row,) = read(tmp_path / "out" / "demoresultssummary.csv")
    assert row["ended"] == "interrupted"


def test_an_error_is_raised_after_the_log_is_written(run, tmp_path: Path) -> None:
    with refused("broken-detector"):
        run(
            [picture(255, 0)] * 6,
            [faces(LEFT)] * 3 + [FerError("detector broke", code="broken-detector")],
        )
    assert len(read(tmp_path / "out" / "per_frame.csv")) == 3
    (row,) = read(tmp_path / "out" / "demoresultssummary.csv")
    assert (row["ended"], row["frames_logged"]) == ("error", "3")


def test_max_frames_and_the_view_end_a_run(run) -> None:
    pictures, found = [picture(255, 0)] * 6, [faces(LEFT)] * 6
    summary = run(pictures, found, out="few", max_frames=2)
    assert (summary.ended, summary.frames) == ("max_frames", 2)
    stop = Eye(lambda frame, control: setattr(control, "stop", frame.index == 3))
    summary = run(pictures, found, out="stop", view=stop)
    assert (summary.ended, summary.frames) == ("stopped", 4)
    with refused("invalid-value"):
        run(pictures, found, out="none", max_frames=0)


def test_a_truncated_video_says_so(bundle, scripted, write_video, tmp_path: Path) -> None:
    whole = write_video([picture(255, 0)] * 40).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    summary = run_session(
        tmp_path / "cut.avi", bundle, scripted([[]] * 40), tmp_path / "out", SETTINGS
    )
    assert summary.ended == "cut_short"
    assert len(read(tmp_path / "out" / "per_frame.csv")) == summary.frames < 40


def test_a_corrupt_video_leaves_no_log(bundle, scripted, tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    with refused("video-not-opened"):
        run_session(tmp_path / "noise.mp4", bundle, scripted([]), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_a_log_is_never_overwritten(run) -> None:
    run([picture(255, 0)], [[]])
    with refused("output-exists"):
        run([picture(255, 0)], [[]])


FULL_DISK = """
import resource, sys
from pathlib import Path
from demo_app.detection import Detection
from demo_app.parameters import Parameters
from demo_app.session import run_session
from fer_ml.bundles.bundle import load_bundle
from fer_ml.base.errors import FerError

class Found:
    name = "scripted"
    def detect(self, image):
        return [Detection((8, 8, 56, 56), 0.9)]

bundle = load_bundle(Path(sys.argv[1]))
# No file may grow beyond this: writing then fails in mid-row, as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    run_session(Path(sys.argv[2]), bundle, Found(), Path(sys.argv[3]), Parameters(unsure_below=0.4))
except FerError as error:
    print(error.what)
"""


@POSIX
@pytest.mark.fault("the disk is full")
def test_a_full_disk_is_one_clear_error_after_a_whole_log(
    bundle_folder: Path, write_video, tmp_path: Path
) -> None:
    video, out = write_video([picture(255, 0)] * 40), tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, bundle_folder, video, out],
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("the log cannot be written"), done.stderr
    text = (out / "per_frame.csv").read_text()
    assert text.endswith("\n") and 3000 < len(text) <= 4000
    rows = read(out / "per_frame.csv")
    assert [int(row["frame_index"]) for row in rows] == list(range(len(rows)))
    assert compute_kpis(out / "per_frame.csv", None)["frames"] == len(rows)
    (summary,) = read(out / "demoresultssummary.csv")
    assert (summary["ended"], summary["frames_logged"]) == ("error", str(len(rows)))


def test_a_corrupt_bundle_is_refused(bundle_folder: Path) -> None:
    data = bytearray((bundle_folder / MODEL_FILE).read_bytes())
    data[-1] ^= 1
    (bundle_folder / MODEL_FILE).write_bytes(data)
    with refused("bundle-changed"):
        load_bundle(bundle_folder)


def test_the_drawn_film_is_found_and_scored(bundle: Bundle, tmp_path: Path) -> None:
    draw_video(tmp_path, 1, seconds=2)
    out, detector = tmp_path / "out", make_detector("haar")
    summary = run_session(tmp_path / "demo.avi", bundle, detector, out, SETTINGS)
    assert (summary.frames, summary.ended) == (50, "end")
    kpis = compute_kpis(out / "per_frame.csv", tmp_path / "demo_truth.csv")
    assert kpis["detection_recall"] > 0.9
    assert kpis["truth_faces_outside_log"] == 0
    assert sum(kpis["support"].values()) == kpis["truth_found"]
    assert kpis["face_found_rate"] < 1  # the film has a stretch in which nobody is there


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["haar", "yunet"])
def test_the_real_clips_run_end_to_end(
    name: str, bundle: Bundle, clips: list[Path], tmp_path: Path
) -> None:
    people = {"classroom": 4, "female-and-male": 2, "female": 1}
    for clip in clips:
        out = tmp_path / clip.stem
        detector = make_detector(name)
        summary = run_session(clip, bundle, detector, out, parameters_for(bundle.card))
        assert summary.ended == "end" and summary.frames == summary.frames_stated
        kpis = compute_kpis(out / "per_frame.csv", None)
        assert (kpis["frames"], kpis["faces"]) == (summary.frames, summary.faces)
        if name == "yunet":
            assert kpis["face_found_rate"] == 1
            expected = next(count for key, count in people.items() if clip.stem.endswith(key))
            assert kpis["faces"] / kpis["frames"] == pytest.approx(expected, abs=0.1)
            if clip.stem.startswith("head-pose"):
                assert kpis["tracks"] == expected
