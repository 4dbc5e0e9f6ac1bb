from dataclasses import replace
from pathlib import Path

import pytest

from demo_app.kpis import (
    LEAST,
    WARM_UP_FRAMES,
    LoggedFace,
    LoggedFrame,
    accuracy,
    compute_kpis,
    macro_f1_present,
    protocol_frames,
    reaction,
    score_manual,
    timing,
)
from demo_app.logs import BOX_COLUMNS, PER_FRAME_COLUMNS
from tests.refusals import refused

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
    # Getting each frame took another millisecond.
    assert kpis["processed_fps"] == pytest.approx(5 / 0.205)
    assert (kpis["frame_ms_p50"], kpis["frame_ms_mean"]) == (30, 40)
    assert kpis["frame_ms_p95"] is kpis["frame_ms_p99"] is kpis["detect_ms_p95"] is None
    assert kpis["frames_missing"] == {"p95": 15, "p99": 95}
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
    assert timing([1] * 5 + [10, 30], [0] * 7)["processed_fps"] == pytest.approx(50)
    assert timing([1] * 5 + [10, 30], [0] * 5 + [20, 20])["processed_fps"] == pytest.approx(25)


@pytest.mark.parametrize(
    ("frames", "known"), [(1, set()), (2, {"p50"}), (19, {"p50"}), (20, {"p50", "p95"})]
)
def test_a_percentile_needs_as_many_frames_as_it_speaks_of(frames: int, known: set[str]) -> None:
    found = timing([1.0] * (WARM_UP_FRAMES + frames), [0.0] * (WARM_UP_FRAMES + frames))
    assert {name for name in LEAST if found[f"frame_ms_{name}"] is not None} == known
    assert set(found["frames_missing"]) == set(LEAST) - known
    assert found["frame_ms_mean"] == 1


def test_a_change_while_the_face_is_away_is_no_flip(tmp_path: Path) -> None:
    """The time of the gap is no track-time, so what happened in it is no change of it."""
    seen = [(0, "Happy"), (1, "Happy"), (4, "Sad"), (5, "Sad"), (6, "Fear")]
    path = log(tmp_path / "p.csv", *(row(i, 0, label, label) for i, label in seen))
    kpis = compute_kpis(path, None)
    assert kpis["track_seconds"] == pytest.approx(0.3)
    assert (kpis["flips_raw"], kpis["flips_stabilised"]) == (1, 1)


def test_a_change_that_flickers_is_a_change(tmp_path: Path) -> None:
    """Every fourth face of the new label says the old one: no run of it lasts."""
    raw = ["Happy"] * 10 + ["Sad", "Sad", "Sad", "Happy"] * 5
    shown = ["Happy"] * 14 + ["Sad"] * 16
    lines = (row(i, 0, a, b) for i, (a, b) in enumerate(zip(raw, shown, strict=True)))
    kpis = compute_kpis(log(tmp_path / "p.csv", *lines), None)
    assert (kpis["lasting_changes"], kpis["lasting_changes_missed"]) == (1, 0)
    assert kpis["reaction_delay_s_max"] == pytest.approx(0.4)


def test_what_flickers_without_a_winner_is_no_change(tmp_path: Path) -> None:
    raw = ["Happy"] * 10 + ["Sad", "Happy"] * 10
    lines = (row(i, 0, label, "Happy") for i, label in enumerate(raw))
    assert compute_kpis(log(tmp_path / "p.csv", *lines), None)["lasting_changes"] == 0


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
    with refused("missing-column"):
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
    with refused("empty-box" if column == "bbox_left" else "invalid-cell") as caught:
        compute_kpis(log(tmp_path / "p.csv", line.replace(good, bad)), None)
    assert "line 2" in str(caught.value.where) and column in str(caught.value.where)


def test_a_torn_last_line_is_refused(session: Path) -> None:
    session.write_text(session.read_text()[:-60])
    with refused("row-too-short"):
        compute_kpis(session, None)


def test_absent_empty_and_binary_files(tmp_path: Path) -> None:
    with refused("unreadable-file"):
        compute_kpis(tmp_path / "none.csv", None)
    with refused("empty-csv"):
        compute_kpis(log(tmp_path / "p.csv"), None)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with refused("invalid-csv"):
        compute_kpis(tmp_path / "b.csv", None)


def test_a_truth_of_other_frames_is_refused(session: Path, tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(f"{TRUTH_HEADER}\n50,a,Happy,10,10,50,50\n")
    with refused("no-true-face"):
        compute_kpis(session, path)
    path.write_text(f"{TRUTH_HEADER}\n0,a,Joy,10,10,50,50\n")
    with refused("invalid-cell"):
        compute_kpis(session, path)


def test_stages_worked_by_hand(session: Path) -> None:
    kpis = compute_kpis(session, None)
    assert kpis["frame_ms_mean"] == pytest.approx(40)
    assert (kpis["capture_ms_p50"], kpis["smooth_ms_p50"], kpis["draw_ms_p50"]) == (1, 0.5, 0)
    assert kpis["align_ms_mean"] == 2, "the frame without a face has no such time"


def a_face(time_s: float, raw: str, shown: str | None, state: str = "label") -> LoggedFace:
    return LoggedFace(round(time_s * 10), time_s, 0, BOX, raw, shown, state)


def test_the_reaction_delay_by_hand() -> None:
    spans = (
        (0.0, 1.0, "Happy", "Happy"),
        (1.0, 1.3, "Sad", "Happy"),  # shown from 1.3 on: a delay of 0.3 s
        (1.3, 2.0, "Sad", "Sad"),
        (2.0, 2.4, "Fear", "Sad"),  # too short to be a change
        (2.4, 3.4, "Happy", "Sad"),  # lasts, and is never shown
        (3.4, 4.4, "Surprise", "Sad"),  # shown from 4.4 on: a delay of 1 s
        (4.4, 5.0, "Surprise", "Surprise"),
    )
    faces = [
        a_face(i / 10, raw, shown)
        for begin, end, raw, shown in spans
        for i in range(round(begin * 10), round(end * 10))
    ]
    found = reaction(faces)
    assert (found["lasting_changes"], found["lasting_changes_missed"]) == (3, 1)
    assert found["reaction_delay_s_p50"] == pytest.approx(0.65)
    assert found["reaction_delay_s_max"] == pytest.approx(1.0)
    assert reaction([])["reaction_delay_s_p50"] is None


def frames_of(*spans: tuple[float, float, str | None]) -> list[LoggedFrame]:
    """Frames at 20 fps; in each the face is taken for Happy, and shown as such."""
    found = []
    for begin, end, label in spans:
        for i in range(round(begin * 20), round(end * 20)):
            face = LoggedFace(i, i / 20, 0, BOX, "Happy", "Happy", "label")
            found.append(LoggedFrame(i, i / 20, {}, 10, label, face if label else None))
    return found


def kept(*spans: tuple[float, float, str | None]) -> set[int]:
    return {frame.frame for frame in protocol_frames(frames_of(*spans))}


def test_the_first_protocol_by_hand() -> None:
    # 2 s of Happy, then 1 s of Sad, by hand: 250 ms on both sides of the change are left out.
    assert kept((0, 2, "Happy"), (2, 3, "Sad")) == {*range(36), *range(45, 60)}
    # 0.5 s is no segment, and its neighbours still change there.
    assert kept((0, 1, "Happy"), (1, 1.5, "Fear"), (1.5, 3, "Sad")) == {
        *range(16),
        *range(35, 60),
    }
    # 600 ms is one; from and to no label nothing is left out.
    assert kept((0, 1, None), (1, 1.6, "Sad"), (1.6, 2, None)) == {*range(20, 32)}
    assert kept((0, 1, None)) == set()


def test_manual_labels_have_one_denominator() -> None:
    frames = frames_of((0, 1, "Happy"), (1, 2, None), (2, 3, "Sad"))
    # Of Happy, two frames have no face and three are unsure; Sad is always taken for Happy.
    frames[3:5] = [replace(frame, labelled=None) for frame in frames[3:5]]
    frames[5:8] = [
        replace(frame, labelled=replace(frame.labelled, shown=None, state="unsure"))
        for frame in frames[5:8]
        if frame.labelled
    ]
    found = score_manual(frames)
    assert (found["manual_frames"], found["manual_in_protocol"]) == (40, 40)
    assert (found["manual_without_face"], found["manual_scored"]) == (2, 38)
    assert found["manual_abstained"] == 3
    assert found["manual_accuracy_raw"] == pytest.approx(18 / 38)
    assert found["manual_accuracy_stabilised"] == pytest.approx(15 / 38)
    # Happy: 15 hits of 18 true and 35 said; Sad: none.
    assert found["manual_macro_f1_present_stabilised"] == pytest.approx(2 * 15 / (35 + 18) / 2)
    assert found["manual_support"]["Sad"] == 20


def test_manual_labels_are_read_from_the_log(tmp_path: Path) -> None:
    rows = [row(i, 0, "Happy", "Happy").split(",") for i in range(12)]
    for cells in rows:
        cells[PER_FRAME_COLUMNS.index("manual_label")] = "Happy"
    path = log(tmp_path / "p.csv", *(",".join(cells) for cells in rows))
    kpis = compute_kpis(path, None)
    assert (kpis["manual_scored"], kpis["manual_accuracy_stabilised"]) == (12, 1.0)
    assert "manual_scored" not in compute_kpis(log(tmp_path / "q.csv", *SESSION), None)
