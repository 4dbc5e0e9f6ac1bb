from pathlib import Path

import pytest

from demo_app.kpis import accuracy, compute_kpis, macro_f1_present, timing
from demo_app.logs import BOX_COLUMNS, PER_FRAME_COLUMNS
from fer_ml.errors import FerError

BOX = (10, 10, 50, 50)
FAR = (100, 10, 140, 50)
TRUTH_HEADER = "frame_index,face_id,label,bbox_left,bbox_top,bbox_right,bbox_bottom"


def row(
    frame: int,
    track: int | None = None,
    raw: str = "",
    shown: str | None = None,
    box: tuple[int, int, int, int] = BOX,
    *,
    frame_ms: float = 20,
) -> str:
    """A line of ``per_frame.csv`` at 10 fps; no track is no face, nothing shown is unsure."""
    values: dict[str, object] = {
        "frame_index": frame,
        "time_sec": f"{frame / 10:.4f}",
        "face_found": 0,
        "state": "no_face",
        "capture_ms": 1,
        "detect_ms": 4,
        "smooth_ms": 0.5,
        "draw_ms": 0,
        "frame_ms": frame_ms,
    }
    if track is not None:
        values |= {"face_found": 1, "track_id": track, "raw_label": raw, "classify_ms": 10}
        values |= {"align_ms": 2, "smoothed_label": shown or raw, "abstain": int(shown is None)}
        values |= {"state": "unsure" if shown is None else "label", "pred_label": shown or ""}
        values |= zip(BOX_COLUMNS, box, strict=True)
    return ",".join(str(values.get(name, "")) for name in PER_FRAME_COLUMNS)


def log(path: Path, *rows: str) -> Path:
    path.write_text("\n".join((",".join(PER_FRAME_COLUMNS), *rows)) + "\n", encoding="utf-8")
    return path


#: Ten frames, worked by hand below: track 0 in frames 0-6 and 9, track 1 in 5-7, nobody in 8.
SESSION = (
    row(0, 0, "Happy", "Happy", frame_ms=500),
    row(1, 0, "Sad", "Happy", frame_ms=500),
    row(2, 0, "Happy", "Happy", frame_ms=500),
    row(3, 0, "Happy", None, frame_ms=500),
    row(4, 0, "Happy", "Happy", frame_ms=500),
    row(5, 0, "Sad", None, frame_ms=10),
    row(5, 1, "Fear", "Fear", FAR, frame_ms=10),
    row(6, 0, "Sad", "Sad", frame_ms=20),
    row(6, 1, "Fear", "Fear", FAR, frame_ms=20),
    row(7, 1, "Fear", "Fear", FAR, frame_ms=30),
    row(8, frame_ms=40),
    row(9, 0, "Sad", "Sad", frame_ms=100),
)


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return log(tmp_path / "per_frame.csv", *SESSION)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    lines = (
        "0,a,Happy,10,10,50,50",  # found, raw and shown right
        "1,a,Happy,12,10,52,50",  # found, raw wrong, shown right
        "3,a,Happy,10,10,50,50",  # found, raw right, unsure
        "5,a,Sad,10,10,50,50",  # found, raw right, unsure
        "5,b,Fear,100,10,140,50",  # found, both right
        "7,a,Happy,10,10,50,50",  # missed
        "8,a,Happy,10,10,50,50",  # missed
        "9,a,Surprise,10,10,50,50",  # found, both wrong
        "50,a,Happy,10,10,50,50",  # after the log
    )
    path = tmp_path / "truth.csv"
    path.write_text("\n".join((TRUTH_HEADER, *lines)) + "\n", encoding="utf-8")
    return path


def test_a_session_worked_by_hand(session: Path) -> None:
    kpis = compute_kpis(session, None)
    assert (kpis["frames"], kpis["faces"], kpis["tracks"]) == (10, 11, 2)
    assert kpis["face_found_rate"] == 0.9
    # After the warm-up of five frames: 10, 20, 30, 40, 100 ms.
    assert (kpis["warm_up_frames"], kpis["frames_timed"]) == (5, 5)
    assert kpis["processed_fps"] == pytest.approx(5 / 0.2)
    assert (kpis["frame_ms_p50"], kpis["frame_ms_p95"]) == (30, pytest.approx(88))
    assert (kpis["detect_ms_p50"], kpis["classify_ms_p50"]) == (4, 10)
    # Track 0 holds six steps of 0.1 s, track 1 two; the step from frame 6 to 9 does not count.
    assert kpis["track_seconds"] == pytest.approx(0.8)
    # Raw: Happy Sad Happy Happy Happy Sad Sad Sad; shown: Happy ... Sad, through unsure.
    assert (kpis["flips_raw"], kpis["flips_stabilised"]) == (3, 1)
    assert kpis["flips_per_minute_raw"] == pytest.approx(3 * 60 / 0.8)
    assert kpis["flips_per_minute_stabilised"] == pytest.approx(60 / 0.8)
    assert kpis["unsure_share"] == pytest.approx(2 / 11)
    assert "accuracy_raw" not in kpis


def test_truth_worked_by_hand(session: Path, truth: Path) -> None:
    kpis = compute_kpis(session, truth)
    assert (kpis["truth_faces"], kpis["truth_faces_outside_log"]) == (8, 1)
    assert (kpis["truth_found"], kpis["truth_unsure"]) == (6, 2)
    assert kpis["faces_without_truth"] == 5
    assert kpis["detection_recall"] == 6 / 8
    assert kpis["accuracy_raw"] == pytest.approx(4 / 6)
    assert kpis["accuracy_stabilised"] == pytest.approx(3 / 6)
    assert kpis["support"] == {
        "Angry": 0,
        "Disgust": 0,
        "Fear": 1,
        "Happy": 3,
        "Sad": 1,
        "Surprise": 1,
        "Neutral": 0,
    }
    # Raw: Happy 2 of 3 with no false alarm, Sad 1 with two false alarms, Fear whole, Surprise none.
    assert kpis["macro_f1_present_raw"] == pytest.approx((0.8 + 0.5 + 1 + 0) / 4)
    # Shown: Happy 2 of 3, Sad unsure and one false alarm, Fear whole, Surprise none.
    assert kpis["macro_f1_present_stabilised"] == pytest.approx((0.8 + 0 + 1 + 0) / 4)


def test_macro_f1_equals_an_independent_one() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    labels = ["Happy", "Sad", "Happy", "Fear", "Sad", "Happy"]
    predicted = ["Happy", "Angry", "Sad", "Fear", "Sad", "unsure"]
    expected = sklearn.f1_score(
        labels, predicted, labels=["Happy", "Sad", "Fear"], average="macro", zero_division=0
    )
    ours = macro_f1_present(labels, [None if p == "unsure" else p for p in predicted])
    assert ours == pytest.approx(expected)


def test_without_any_pair_there_is_no_accuracy() -> None:
    assert accuracy([], []) is None
    assert macro_f1_present([], []) is None


def test_a_session_shorter_than_the_warm_up_has_no_times(tmp_path: Path) -> None:
    kpis = compute_kpis(log(tmp_path / "p.csv", *(row(i) for i in range(5))), None)
    assert kpis["frames_timed"] == 0
    assert kpis["processed_fps"] is kpis["frame_ms_p50"] is kpis["detect_ms_p50"] is None
    assert kpis["face_found_rate"] == 0
    assert kpis["unsure_share"] is kpis["flips_per_minute_raw"] is None


def test_frame_rate_is_a_ratio_of_sums() -> None:
    assert timing([1] * 5 + [10, 30])["processed_fps"] == pytest.approx(50)


def test_one_person_cannot_be_found_twice(tmp_path: Path) -> None:
    path = log(tmp_path / "p.csv", row(0, 0, "Happy", "Happy"), row(0, 1, "Sad", "Sad"))
    truth = tmp_path / "truth.csv"
    truth.write_text(f"{TRUTH_HEADER}\n0,a,Happy,10,10,50,50\n")
    assert compute_kpis(path, truth)["truth_found"] == 1


@pytest.mark.parametrize("column", ["frame_index", "frame_ms", "track_id", "bbox_top"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    lines = (",".join(PER_FRAME_COLUMNS), row(0, 0, "Happy", "Happy"))
    at = PER_FRAME_COLUMNS.index(column)
    cut = [",".join(cells[:at] + cells[at + 1 :]) for cells in (li.split(",") for li in lines)]
    (tmp_path / "p.csv").write_text("\n".join(cut) + "\n")
    with pytest.raises(FerError, match=f"no column {column}"):
        compute_kpis(tmp_path / "p.csv", None)


@pytest.mark.parametrize(
    ("good", "bad", "column"),
    [
        ("Happy,Happy,label", "Joy,Happy,label", "raw_label"),
        ("label,0,1,", "label,0,yes,", "face_found"),
        ("Happy,label,0", "Happy,certain,0", "state"),
        ("0.0000", "nan", "time_sec"),
        ("10,10,50,50", "50,10,10,50", "bbox_left"),
        (",20,", ",-1,", "frame_ms"),
        (",1,4,2,", ",1,x,2,", "detect_ms"),
    ],
)
def test_a_wrong_value_is_named_with_its_line(
    tmp_path: Path, good: str, bad: str, column: str
) -> None:
    line = row(0, 0, "Happy", "Happy")
    assert good in line
    with pytest.raises(FerError, match=column) as caught:
        compute_kpis(log(tmp_path / "p.csv", line.replace(good, bad)), None)
    assert "line 2" in str(caught.value)


def test_a_torn_last_line_is_refused(session: Path) -> None:
    session.write_text(session.read_text()[:-60])
    with pytest.raises(FerError, match="column"):
        compute_kpis(session, None)


def test_absent_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="cannot be read"):
        compute_kpis(tmp_path / "none.csv", None)
    with pytest.raises(FerError, match="no frame"):
        compute_kpis(log(tmp_path / "p.csv"), None)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FerError, match="cannot be read"):
        compute_kpis(tmp_path / "b.csv", None)


def test_a_truth_of_other_frames_is_refused(session: Path, tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(f"{TRUTH_HEADER}\n50,a,Happy,10,10,50,50\n")
    with pytest.raises(FerError, match="frame_index"):
        compute_kpis(session, path)
    path.write_text(f"{TRUTH_HEADER}\n0,a,Joy,10,10,50,50\n")
    with pytest.raises(FerError, match="label"):
        compute_kpis(session, path)
