import json
from pathlib import Path

from tests.fer_assets.commands.conftest import Fer


def test_doctor_says_what_is_missing_and_what_to_do(fer: Fer) -> None:
    done = fer("doctor", "-p", "ferplus", "--json")
    assert done.returncode == 1
    findings = {f["what"]: f for f in json.loads(done.stdout)}
    assert findings["data ferplus"]["state"] == "blocks"
    assert "[roots]" in findings["data ferplus"]["fix"]
    assert findings["detector haar"]["state"] == "ok"
    assert "first weights" not in findings


def test_doctor_looks_for_the_packages_of_first_weights(fer: Fer, tmp_path: Path) -> None:
    table = 'init = "package"\ninit_package = "no-such-weights"\ninit_file = "x.pth"\n'
    text = MINE + "[profiles.mine.teachers.B3]\n" + table + f'init_sha256 = "{"0" * 64}"\n'
    (tmp_path / "fer.toml").write_text(text)
    done = fer("doctor", "-p", "mine", "--json")
    (found,) = (f for f in json.loads(done.stdout) if f["what"] == "first weights")
    assert (done.returncode, found["state"]) == (1, "blocks")
    assert "no-such-weights" in found["found"] and "pretrained" in found["fix"]


MINE = """
[profiles.mine]
base = "sample"
drawn = false
sources = [
  { name = "good", adapter = "csv_manifest", root = "good" },
  { name = "typo", adapter = "splitfolders", root = "good" },
  { name = "other", adapter = "split_folders", root = "faces" },
  { name = "option", adapter = "expw", root = "good", options = { least = "3" } },
  { name = "votes", adapter = "ferplus_votes", root = "good", labels = { "0" = "Sad" } },
]
hq_train = { sources = ["good"] }
eval_only = { sources = ["good"] }
test_all_sources = { sources = ["good"] }
demo = { video = "clip.avi" }
"""


def test_doctor_looks_whether_a_source_is_its_adapters(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good/manifest.csv").write_text("file,label\n")
    (tmp_path / "faces/happy").mkdir(parents=True)
    (tmp_path / "fer.toml").write_text(MINE)
    done = fer("doctor", "-p", "mine", "--json")
    assert done.returncode == 1
    held = {f["what"]: f for f in json.loads(done.stdout) if f["what"].startswith("data ")}
    states = {what.removeprefix("data "): finding["state"] for what, finding in held.items()}
    assert states == {"good": "ok"} | dict.fromkeys(("typo", "other", "option", "votes"), "blocks")
    assert "splitfolders" in held["data typo"]["found"]
    assert "class_folders" in held["data other"]["fix"]
    assert "least" in held["data option"]["found"]
    assert "labels" in held["data votes"]["found"]
