"""Buffers hold what the log says, from raw frames, and never meet their own session again."""

import csv
from pathlib import Path

import numpy as np
import pytest

from demo_app.buffer import BufferRule, build_buffer
from demo_app.detection import Detection
from demo_app.faces import FrameResult
from demo_app.logs import session_id
from demo_app.parameters import Parameters
from demo_app.pipeline import Control
from demo_app.session import run_session
from fer_ml.bundles.bundle import load_bundle, read_card, write_card
from fer_ml.images.pixels import read_image
from fer_ml.sources import get_adapter
from tests.refusals import refused

SETTINGS = Parameters(unsure_below=0.1, ema_tau_s=0, vote_s=0)
BOX = (8, 8, 56, 56)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Labels:
    """Labels frames 3 to 22 as Sad."""

    def draw(self, frame: FrameResult) -> None:
        pass

    def react(self, frame: FrameResult, control: Control) -> None:
        control.manual_label = "Sad" if 2 <= frame.index < 22 else None


@pytest.fixture
def session(bundle, scripted, write_video, tmp_path: Path) -> Path:
    """3 s at 10 fps: bright, then in the middle of grey, then dark; frame 12 has no face."""
    shades = [255] * 10 + [160] * 10 + [0] * 10
    video = write_video([np.full((64, 96, 3), shade, np.uint8) for shade in shades])
    found = [[] if i == 12 else [Detection(BOX, 0.9)] for i in range(30)]
    out = tmp_path / "session"
    run_session(video, bundle, scripted(found), out, SETTINGS, view=Labels(), record=True)
    return out


def test_faces_labelled_by_hand(session: Path, tmp_path: Path) -> None:
    about = build_buffer(session, tmp_path / "buffer", BufferRule())
    rows = read(tmp_path / "buffer" / "manifest.csv")
    # From 0.3 s to 2.2 s, every 0.33 s at 10 fps is every fourth frame; 12 (no face) waits for 13.
    frames = [int(Path(row["file"]).stem) for row in rows]
    assert frames == [3, 7, 11, 15, 19]
    assert {row["label"] for row in rows} == {"Sad"} and about["labelled"]["Sad"] == 5
    image = read_image(tmp_path / "buffer" / rows[0]["file"])
    assert np.array_equal(image, read_image(session / "frames" / "000003.png"))
    listing = get_adapter("csv_manifest").listing(tmp_path / "buffer")
    assert listing.height == 5 and set(listing["split"]) == {"train"}


def test_faces_labelled_by_the_model_itself(session: Path, tmp_path: Path) -> None:
    rows = read(session / "per_frame.csv")
    best = {
        int(row["frame_index"]): max(float(v) for k, v in row.items() if k.startswith("prob_"))
        for row in rows
        if row["face_found"] == "1"
    }
    sure = (best[0] + best[15]) / 2
    rule = BufferRule(labels="self", sure=sure, doubtful=0.0, gap_s=0)
    about = build_buffer(session, tmp_path / "buffer", rule)
    taken = read(tmp_path / "buffer" / "manifest.csv")
    assert len(taken) == sum(value >= sure for value in best.values())
    assert about["labelled"]["Happy"] > 0 and about["labelled"]["Sad"] > 0
    negatives = read(tmp_path / "buffer" / "negatives.csv")
    assert len(negatives) == len(best) - len(taken) == about["negatives"] > 0
    by_frame = {int(row["frame_index"]): row for row in rows}
    for row in negatives:
        logged = by_frame[int(Path(row["file"]).stem)]
        probs = {k.removeprefix("prob_"): float(v) for k, v in logged.items() if k[:5] == "prob_"}
        assert {row["negative_1"], row["negative_2"]} == set(sorted(probs, key=probs.get)[:2])
        assert logged["raw_label"] not in (row["negative_1"], row["negative_2"])


def test_a_class_has_a_cap(session: Path, tmp_path: Path) -> None:
    rule = BufferRule(gap_s=0, per_class=2)
    assert build_buffer(session, tmp_path / "buffer", rule)["labelled"]["Sad"] == 2


def test_a_bundle_is_never_scored_on_a_session_that_it_learned_from(
    session: Path, bundle_folder: Path, scripted, tmp_path: Path
) -> None:
    name = build_buffer(session, tmp_path / "buffer", BufferRule())["session"]
    assert name == session_id(session)
    write_card(bundle_folder, read_card(bundle_folder).model_copy(update={"sessions": (name,)}))
    learned = load_bundle(bundle_folder)
    with refused("session-in-training-data"):
        run_session(session, learned, scripted([]), tmp_path / "out", SETTINGS)
    # Relabelling changes the log, and not who was in front of the camera.
    log = session / "per_frame.csv"
    log.write_text(log.read_text().replace("Sad", "Fear"))
    assert session_id(session) == name


def test_what_cannot_become_a_buffer(
    session: Path, bundle, scripted, write_video, tmp_path: Path
) -> None:
    build_buffer(session, tmp_path / "buffer", BufferRule())
    with refused("output-exists"):
        build_buffer(session, tmp_path / "buffer", BufferRule())
    with refused("no-qualifying-face"):
        build_buffer(session, tmp_path / "none", BufferRule(labels="self", sure=1.0, doubtful=1.0))
    assert not (tmp_path / "none").exists()
    video = write_video([np.zeros((64, 96, 3), np.uint8)] * 3, name="short.avi")
    run_session(video, bundle, scripted([[]] * 3), tmp_path / "plain", SETTINGS)
    with refused("session-not-recorded"):
        build_buffer(tmp_path / "plain", tmp_path / "none", BufferRule())
