"""A project over folders of noise: real stages that need no drawn sample and little time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from fer_ml.base.labels import CLASSES

ROOT = Path(__file__).parents[2]
#: ``a`` lacks a class, which no training manifest may; ``gone`` has no folder.
PROFILES = """
[profiles.own]
base = "sample"
drawn = false
without = ["experiments", "comparisons", "teachers.CNXT", "teachers.B3"]
sources = [
  { name = "a", adapter = "class_folders" },
  { name = "b", adapter = "class_folders" },
]
hq_train = { sources = ["b"] }
eval_only = { sources = ["a"] }
test_all_sources = { sources = ["a", "b"] }
draw = { val = 0.4, calib = 0.5, test = 0.2 }
demo = { video = "none.mp4" }
[profiles.own.teachers.RN18]
architecture = "test_resnet"
epochs = 200
[profiles.red]
base = "sample"
drawn = false
without = ["experiments", "comparisons", "teachers.CNXT", "teachers.B3"]
sources = [
  { name = "a", adapter = "class_folders" },
  { name = "b", adapter = "class_folders" },
  { name = "gone", adapter = "class_folders" },
]
hq_train = { sources = ["a"] }
eval_only = { sources = ["b"] }
test_all_sources = { sources = ["a", "b"] }
demo = { video = "none.mp4" }
"""


def make_project(folder: Path) -> Path:
    """``folder`` as a project with the profiles ``own`` and ``red``, and their images."""
    (folder / "dagster_home").mkdir(parents=True)
    (folder / "workspace.yaml").touch()
    (folder / "fer.toml").write_text(PROFILES)
    dagster = (ROOT / "dagster_home" / "dagster.yaml").read_text()
    (folder / "dagster_home" / "dagster.yaml").write_text(dagster)
    drawn = np.random.default_rng(0)
    for source in ("a", "b"):
        for label in CLASSES[source == "a" :]:
            images = folder / "data" / source / label
            images.mkdir(parents=True)
            for number in range(30):
                noise = drawn.integers(0, 255, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(noise).save(images / f"{number}.png")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of ``fer`` in a project, with nothing of this process's own settings."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    return {**keep, "FER_PROJECT": str(folder)}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """``fer`` in a project, as the leader of a group of processes, as a terminal starts it."""
    script = "from fer_assets.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(folder),
        start_new_session=True,
    )
