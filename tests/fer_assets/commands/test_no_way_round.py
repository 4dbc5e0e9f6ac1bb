"""What accidents and attackers do to a finished root, and to raw folders, by the real commands.

One small project is made once. Each case changes a copy of it by one thing, and nothing of it may
end green, in a traceback, or without an end.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fer_ml.base.labels import CLASSES
from fer_ml.storage.artifact import RECEIPTS
from fer_ml.storage.pointer import CURRENT_FILE
from fer_ml.storage.record import RECORD_FILE
from tests.conftest import noise
from tests.machine import LINKS, pipe

ROOT = Path(__file__).parents[3]
#: Seconds that a command has on a busy machine; one that waits for a pipe waits for ever.
PATIENCE = 300
ROWS = "classification_manifest"
TOML = """
[roots]
mine = "raw"
raf = "raf"
[profiles.mine]
base = "sample"
drawn = false
sources = [
  { name = "mine", adapter = "split_folders" },
  { name = "raf", adapter = "rafdb_basic" },
]
hq_train = { sources = ["mine"] }
eval_only = { sources = ["mine"] }
test_all_sources = { sources = ["mine"] }
demo = { video = "clip.mp4" }
"""
CLAIMS = """
version: 2
title: Rows
claims:
  - {id: rows, kind: number, sentence: "SENTENCE", asset: ASSET, file: clean_report.json,
     pointer: /manifest/rows}
"""


def fer(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", "from fer_assets.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=project,
        env=keep,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def draw(path: Path, seed: int, *more: int, kind: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(noise(each)) for each in (seed, *more))
    first.save(path, kind, **({"save_all": True, "append_images": others} if others else {}))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose name is a pattern, with a phone's photo, a link out, and another's labels."""
    folder = tmp_path_factory.mktemp("own") / "fer [copy]"
    (folder / "dagster_home").mkdir(parents=True)
    shutil.copy(ROOT / "workspace.yaml", folder)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", folder / "dagster_home")
    (folder / "fer.toml").write_text(TOML)
    places = [(split, name) for split in ("train", "val", "test") for name in CLASSES]
    for seed, (split, name) in enumerate(places, start=1):
        draw(folder / "raw" / split / name.lower() / f"{seed}.png", seed)
    draw(folder / "raw" / "train" / "happy" / "phone.jpg", 100, 101, kind="MPO")
    (folder / "elsewhere" / "happy").mkdir(parents=True)
    (folder / "elsewhere" / "happy" / "payroll.xls").touch()
    if LINKS:
        (folder / "raw" / "train" / "more").symlink_to(folder / "elsewhere")
    lines = [f"train_{k:05}.jpg {k % 11 + 1}" for k in range(22)]  # RAF-DB's compound list.
    for k in range(22):
        draw(folder / "raf" / "Image" / "aligned" / f"train_{k:05}_aligned.jpg", 200 + k)
    (folder / "raf" / "EmoLabel").mkdir()
    (folder / "raf" / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def made(project: Path) -> Path:
    """The artifact root of its manifests."""
    done = fer(project, "materialize", "-p", "mine", "--select", f"+{ROWS}")
    assert done.returncode == 1
    assert "adapter_fits" in done.stdout + done.stderr
    assert not (project / "outputs" / "mine" / ROWS / CURRENT_FILE).exists()
    (project / "fer.toml").write_text(re.sub(r".*\braf\b.*\n", "", TOML))
    done = fer(project, "materialize", "-p", "mine", "--select", "manifests")
    assert done.returncode == 0, done.stderr
    return project / "outputs" / "mine"


def run_of(root: Path, asset: str) -> Path:
    home = root / asset
    return home / str(json.loads((home / CURRENT_FILE).read_text())["folder"])


def verify(root: Path, asset: str = ROWS, sentence: str = "There are {value} rows.") -> int:
    claims = root / "c.yaml"
    claims.write_text(CLAIMS.replace("ASSET", asset).replace("SENTENCE", sentence))
    return fer(root, "claims", "verify", str(root), "--claims", str(claims)).returncode


def test_labels_of_another_table_stop_their_source_alone(made: Path) -> None:
    rows = (run_of(made, ROWS) / f"{ROWS}.csv").read_text()
    assert rows.count("\n") == 1 + 3 * len(CLASSES) + 1  # The phone's photo is its first one.
    assert "raf" not in rows


def test_a_link_is_not_walked(made: Path) -> None:
    told = [path.read_text() for path in made.rglob("*.csv")]
    assert told
    assert not any("payroll" in text for text in told)


def swap(root: Path) -> None:
    other, here = root / "eval_only_manifest", root / ROWS
    shutil.rmtree(here)
    shutil.copytree(other, here)


def receipts_of_another(root: Path) -> None:
    here, other = run_of(root, ROWS), run_of(root, "hq_train_manifest")
    shutil.rmtree(here / RECEIPTS)
    shutil.copytree(other / RECEIPTS, here / RECEIPTS)


def edit(name: str, **values: object) -> Callable[[Path], None]:
    def edited(root: Path) -> None:
        path = root / ROWS / name if name == CURRENT_FILE else run_of(root, ROWS) / name
        held = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({k: v for k, v in held.items() if v is not None}))

    return edited


def piped(name: str) -> Callable[[Path], None]:
    def put(root: Path) -> None:
        path = root / ROWS / name if name == CURRENT_FILE else run_of(root, ROWS) / name
        path.unlink(missing_ok=True)
        pipe(path)

    return put


DAMAGES: dict[str, Callable[[Path], None]] = {
    "another asset in its place": swap,
    "receipts of another asset": receipts_of_another,
    "no receipts": lambda root: shutil.rmtree(run_of(root, ROWS) / RECEIPTS),
    "a pointer with another hash": edit(CURRENT_FILE, sha256="f" * 64),
    "a pointer to a NUL": edit(CURRENT_FILE, folder="a\0b"),
    "a pointer to the root": edit(CURRENT_FILE, folder=".."),
    "a record without a seal": edit(RECORD_FILE, seal=None),
    "a record of another recipe": edit(RECORD_FILE, recipe={}),
    "a pipe for a pointer": piped(CURRENT_FILE),
    "a pipe for a record": piped(RECORD_FILE),
    "a pipe for a mark": piped("purged.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.threat("any other damage")
def test_no_claim_is_grounded_on_what_is_not_its_artifact(
    made: Path, tmp_path: Path, damage: str
) -> None:
    root = tmp_path / "mine"
    shutil.copytree(made, root, symlinks=True, ignore=shutil.ignore_patterns("cache", "cleaned"))
    DAMAGES[damage](root)
    assert verify(root) != 0


def test_a_claim_that_holds_is_grounded_and_its_sentence_says_no_more(
    made: Path, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    shutil.copytree(made, root, symlinks=True, ignore=shutil.ignore_patterns("cache", "cleaned"))
    assert verify(root) == 0
    for sentence in ("There are 99,999 rows.", "{value} of ninety-nine rows.", "{value}  %"):
        assert verify(root, sentence=sentence) == 2
