"""The subcommands of ``fer demo``, with the student that ships."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import numpy as np
import pytest

from fer_ml.images.pixels import encode_png
from tests.fer_assets.commands.conftest import Fer, refused

FRAMES = 12


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images without a face."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(FRAMES):
        noise = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        (folder / f"{number:02}.png").write_bytes(encode_png(noise))
    return folder


def test_a_session_is_played_recorded_replayed_scored_and_learned_from(
    fer: Fer, images: Path, tmp_path: Path
) -> None:
    how = ("--headless", "--detector", "haar")
    done = fer("demo", "play", "images", *how, "--record", "--out", "log")
    assert done.returncode == 0, done.stderr
    assert f"{FRAMES} frames" in done.stdout and "replay_" not in done.stdout
    assert len(list((tmp_path / "log" / "frames").iterdir())) == FRAMES
    done = fer("demo", "play", "log", *how, "--out", "again")
    assert done.returncode == 0, done.stderr
    assert "replay_is_as_calm" in done.stdout
    assert not (tmp_path / "again" / "frames").exists()
    for log in ("log", "again"):
        assert json.loads(fer("demo", "score", log).stdout)["frames"] == FRAMES
    for flags, labels in (([], "manual"), (["--self-labelled"], "self")):
        done = fer("demo", "buffer", "log", "new", *flags)
        refused(done, "code: no-qualifying-face", f"'labels': '{labels}'")


def test_frames_are_limited_and_the_log_has_its_place(
    fer: Fer, images: Path, tmp_path: Path
) -> None:
    done = fer("demo", "play", "images", "--headless", "--detector", "haar", "--max-frames", "7")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "outputs" / "demo").iterdir()
    assert json.loads(fer("demo", "score", str(log)).stdout)["frames"] == 7


def test_a_photo_without_a_face(fer: Fer, images: Path) -> None:
    done = fer("demo", "photo", "images/00.png", "--detector", "haar")
    assert done.returncode == 0, done.stderr
    assert "no face found" in done.stdout and "--face" in done.stdout
    done = fer("demo", "photo", "images/00.png", "--face")
    assert done.returncode == 0 and " at (0, 0, " in done.stdout, done.stderr
    refused(fer("demo", "photo", "nothing.png"), "nothing.png")


def test_a_camera_that_is_not_there(fer: Fer) -> None:
    refused(
        fer("demo", "camera", "--number", "87", "--headless"),
        "camera 87",
        "code: camera-not-opened",
    )


def test_the_page_is_served_on_loopback(fer: Fer, tmp_path: Path) -> None:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    script = "from fer_assets.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "demo", "web", "--port", "0", "--detector", "haar"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=keep,
    ) as server:
        assert server.stdout is not None
        link = next(line for line in server.stdout if line.startswith("Open ")).split()[1]
        try:
            assert link.startswith("http://127.0.0.1:")
            # The link's token comes back as a cookie, as a browser keeps it.
            with build_opener(HTTPCookieProcessor()).open(link) as page:
                assert page.status == 200
        finally:
            server.terminate()


def test_a_port_that_is_taken(fer: Fer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused(fer("demo", "web", "--port", port), f"port {port} cannot be opened")


def test_a_student_that_is_not_there(fer: Fer) -> None:
    refused(
        fer("demo", "play", "x.avi", "-p", "sample", "--headless"),
        "student_bundle",
        "code: asset-not-made",
    )
    for given in (["play", "x.avi"], ["camera"], ["web"], ["photo", "x.png"]):
        refused(fer("demo", *given, "--precision", "int8"), "-p NAME", "code: missing-option")
    refused(fer("demo", "camera", "-p", "sample", "--bundle", "b"), "code: options-conflict")


def test_numbers_out_of_range(fer: Fer) -> None:
    refused(
        fer("demo", "camera", "--detect-every", "31"),
        "allowed: 1 to 30",
        "code: invalid-value",
    )
    refused(fer("demo", "web", "--detect-every", "0"), "allowed: 1 to 30", "code: invalid-value")


def test_sessions_that_cannot_be_scored_or_learned_from(fer: Fer, tmp_path: Path) -> None:
    refused(fer("demo", "score", "nowhere"), "per_frame.csv", "code: unreadable-file")
    refused(fer("demo", "buffer", "nowhere", "new"), "code: session-not-recorded", "--record")
    assert not (tmp_path / "new").exists()


ALL = ["play VIDEO", "camera", "web", "photo PHOTO", "score SESSION", "buffer SESSION OUT"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--web"], ["web"]),
        (["--web", "--port", "0"], ["web"]),
        (["--video", "x.avi", "--headless"], ["play VIDEO"]),
        (["-p", "sample", "--headless", "--video=x.avi", "--out", "log"], ["play VIDEO"]),
        (["--photo", "x.png"], ["photo PHOTO"]),
        (["--camera", "1"], ["camera"]),
        (["--score", "log"], ["score SESSION"]),
        (["--buffer", "log", "--out", "new"], ["buffer SESSION OUT"]),
        (["--headless"], ALL),
        (["-p", "sample"], ALL),
        (["clip.mp4"], ALL),
    ],
)
def test_what_is_no_subcommand_says_what_to_type(
    fer: Fer, typed: list[str], meant: list[str]
) -> None:
    done = fer("demo", *typed)
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]
    assert told.partition(" comes first: ")[2].split(" or ") == [
        f"fer demo {usage}" for usage in meant
    ]


def test_without_a_subcommand_it_shows_its_help(fer: Fer) -> None:
    done = fer("demo")
    for usage in ALL:
        assert f"\n  {usage.split()[0]} " in done.stdout + done.stderr
