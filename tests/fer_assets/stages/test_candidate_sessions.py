"""Every student over one session: like for like, and by whatever truth there is."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from demo_app.kpis import compute_kpis
from demo_app.logs import STAGE_COLUMNS
from fer_assets.stage import Limits
from fer_assets.stages._demo import DemoRecipe
from fer_assets.stages.candidate_sessions import CANDIDATES_FILE, GATES, build, judge
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import MODEL_FILE, Bundle, write_card
from fer_ml.recipes.profile import CANDIDATES
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store
from tests.fer_assets.stages.bundles import made
from tests.fer_assets.stages.sessions import judged, record

#: What a log says of the time it took, and of whose it is.
TIMES = (*STAGE_COLUMNS, "frame_ms")
NAMES = {"model": "", "bundle_sha256": ""}


def students(bundle: Bundle, store: Store, temperatures: tuple[float, ...]) -> Artifact:
    """``candidate_bundles`` of one network: how sure each student is decides what it shows."""

    def fill(run: RunFolder) -> None:
        for name, temperature in zip(CANDIDATES, temperatures, strict=True):
            shutil.copy(bundle.folder / MODEL_FILE, run.path(f"{name}/{MODEL_FILE}"))
            lineage = {"made_from": {"asset": name, "partition": None, "sha256": f"{name}-bytes"}}
            changes = {"name": name, "temperature": temperature, "lineage": lineage}
            write_card(run.path(name), bundle.card.model_copy(update=changes))

    return made(store, "candidate_bundles", fill)


def candidates(
    bundle: Bundle, root: Path, paths: dict[str, Path], temperatures: tuple[float, ...] = (1, 1, 1)
) -> tuple[Artifact, dict[str, bool | None]]:
    """Make ``candidate_sessions`` in a store of its own; the gates' verdicts."""
    store = Store(root, "test")
    inputs = {"candidate_bundles": students(bundle, store, temperatures)}
    recipe = DemoRecipe("haar", "session" in paths)
    job = Job("candidate_sessions", None, store, recipe, inputs, paths)
    sessions = made(store, "candidate_sessions", lambda run: build(run, job))
    outcomes = judge(sessions, store, Limits())
    assert [outcome.rule for outcome in outcomes] == [gate.rule for gate in GATES]
    return sessions, {outcome.rule: outcome.passed for outcome in outcomes}


def test_every_student_is_run_over_the_clip(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    """As the demo runs one of them: looking once for all changes nothing but the times."""
    clip = Path(shutil.copy(film, tmp_path / "clip.avi"))
    lines = film.with_name("demo_truth.csv").read_text().splitlines()
    labels = "|".join(CLASSES)
    truth = [lines[0], *(re.sub(rf"\b({labels})\b", "Sad", line) for line in lines[1:])]
    (tmp_path / "clip_truth.csv").write_text("\n".join(truth) + "\n")
    write_card(bundle.folder, bundle.card.model_copy(update={"temperature": 0.3}))
    session, _ = judged(bundle, tmp_path / "one", {"video": clip})
    # The second student is never sure enough to show a label: unsure is a miss.
    sessions, verdicts = candidates(bundle, tmp_path / "all", {"video": clip}, (0.3, 1000, 0.3))
    assert verdicts == {"like_for_like": True, "has_truth": True}
    assert sessions.file("truth.csv").read_bytes() == session.file("truth.csv").read_bytes()
    held = sessions.read_json(CANDIDATES_FILE)
    first, never, again = (held["candidates"][name] for name in CANDIDATES)
    assert (held["session"], first["student_sha256"]) == ("clip", "student_ce-bytes")
    assert {**first, "student_sha256": ""} == {**again, "student_sha256": ""}
    assert first["macro_f1_raw"] == never["macro_f1_raw"]
    assert first["macro_f1_stabilised"] > never["macro_f1_stabilised"] == 0
    kpis = compute_kpis(session.file("per_frame.csv"), session.file("truth.csv"))
    for figure, kpi in (
        ("frames", "frames"),
        ("faces", "faces"),
        ("scored", "truth_found"),
        ("macro_f1_raw", "macro_f1_present_raw"),
        ("macro_f1_stabilised", "macro_f1_present_stabilised"),
        ("flips_per_minute_raw", "flips_per_minute_raw"),
        ("flips_per_minute_stabilised", "flips_per_minute_stabilised"),
    ):
        assert first[figure] == kpis[kpi]
    rows = [
        [
            {**row, **dict.fromkeys(TIMES, "")}
            for row in csv.DictReader(path.read_text().splitlines())
        ]
        for path in (session.file("per_frame.csv"), sessions.file("student_dkd/per_frame.csv"))
    ]
    assert [len(r) for r in rows] == [len(rows[0])] * 2
    for ours, theirs in zip(*rows, strict=True):
        assert ours | NAMES == theirs | NAMES


def test_a_clip_without_truth_tells_flips_alone(bundle: Bundle, film: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copy(film, tmp_path / "bare.avi"))
    sessions, verdicts = candidates(bundle, tmp_path / "home", {"video": bare})
    assert verdicts == {"like_for_like": True, "has_truth": False}
    for held in sessions.read_json(CANDIDATES_FILE)["candidates"].values():
        assert held["scored"] == 0 and held["macro_f1_stabilised"] is None
        assert held["flips_per_minute_stabilised"] is not None


def test_a_clip_without_faces_tells_nothing(
    bundle: Bundle, write_video: Callable[..., Path], tmp_path: Path
) -> None:
    dark = write_video([np.zeros((120, 160, 3), np.uint8)] * 6)
    sessions, verdicts = candidates(bundle, tmp_path / "home", {"video": dark})
    assert verdicts == {"like_for_like": True, "has_truth": False}
    for held in sessions.read_json(CANDIDATES_FILE)["candidates"].values():
        assert (held["frames"], held["faces"]) == (6, 0)
        assert held["flips_per_minute_stabilised"] is None


def test_a_recorded_session_tells_by_its_manual_labels(
    bundle: Bundle, film: Path, tmp_path: Path
) -> None:
    recorded = record(film, bundle, tmp_path / "recorded")
    paths = {"video": film, "session": recorded}
    sessions, verdicts = candidates(bundle, tmp_path / "home", paths)
    assert verdicts == {"like_for_like": True, "has_truth": True}
    held = sessions.read_json(CANDIDATES_FILE)
    assert held["session"] == "recorded"
    assert "truth.csv" not in sessions.record.files, "the clip's truth is not the session's"
    assert held["candidates"]["student_kd"]["macro_f1_stabilised"] is not None
    shutil.rmtree(recorded / "frames")
    sessions, verdicts = candidates(bundle, tmp_path / "other", paths)
    assert verdicts == {"like_for_like": None, "has_truth": False}
    assert sessions.read_json(CANDIDATES_FILE)["candidates"] == {}
    assert sessions.read_json(CANDIDATES_FILE)["session"] == "imported"
