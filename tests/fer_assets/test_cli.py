"""The ``fer`` command on bad input: one clear message, a non-zero exit, nothing half-written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_assets.lineage import Pipeline

Fer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fer(tmp_path: Path) -> Fer:
    """Run ``fer`` in an empty project of its own."""
    (tmp_path / "dagster_home").mkdir()
    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "dagster_home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
        return subprocess.run(
            [sys.executable, "-c", "from fer_assets.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**keep, **environment},
            check=False,
        )

    return run


def write_config(folder: Path, root: Path, adapter: str = "class_folders") -> None:
    (folder / "fer.toml").write_text(
        f"""
[roots]
mine = "{root}"
[profiles.own]
base = "ferplus"
sources = [{{ name = "mine", adapter = "{adapter}" }}]
hq_train = {{ sources = ["mine"] }}
eval_only = {{ sources = ["mine"] }}
test_all_sources = {{ sources = ["mine"] }}
"""
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_missing_data_root(fer: Fer, tmp_path: Path) -> None:
    write_config(tmp_path, tmp_path / "nowhere")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "no data root", "[roots]")
    assert not list((tmp_path / "outputs").rglob("record.json"))


def test_an_empty_folder(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_config(tmp_path, tmp_path / "empty")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "empty")
    assert not list((tmp_path / "outputs").rglob("record.json"))


def test_a_csv_without_a_column(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "fer2013.csv").write_text("emotion,Usage\n0,Training\n")
    write_config(tmp_path, tmp_path / "csv", "fer2013_csv")
    refused(fer("materialize", "-p", "own", "--select", "manifests"), "pixels")


def test_an_unknown_source_adapter(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "data" / "Happy").mkdir(parents=True)
    write_config(tmp_path, tmp_path / "data", "no_such_adapter")
    refused(
        fer("materialize", "-p", "own", "--select", "manifests"), "no_such_adapter", "split_folders"
    )


def test_an_unknown_profile_and_an_unknown_selection(fer: Fer) -> None:
    refused(fer("materialize", "-p", "smaple"), "unknown profile 'smaple'", "sample, ferplus")
    refused(fer("materialize", "--select", "techer"), "select: unknown techer", "teacher[RN18]")


def test_an_artifact_root_that_cannot_be_written(fer: Fer, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    (tmp_path / "data" / "Happy").mkdir(parents=True)
    (tmp_path / "data" / "Happy" / "x.png").write_bytes(b"")
    write_config(tmp_path, tmp_path / "data")
    done = fer("materialize", "-p", "own", "--select", "manifests", FER_HOME=str(blocked))
    refused(done, "fix:", "FER_HOME")
    assert blocked.read_text() == "in the way"


def test_imagenet_weights_without_a_network_are_an_error(tmp_path: Path) -> None:
    # The hub is told that it is offline, as on a machine without a network.
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            "from fer_ml.recipes.profiles import paper\n"
            "from fer_ml.training.models import build_model, first_weights\n"
            "recipe = paper().students['ce']\n"
            "first_weights(build_model(recipe), recipe)",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    assert done.returncode != 0
    assert "ImageNet weights of mobilenetv3_large_100 could not be fetched" in done.stderr


def test_validate_judges_any_csv(fer: Fer, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "image_path,label,split,source\na.png,Happy,train,x\nb.png,happy,train,x\n"
    )
    done = fer("validate", "m.csv", "--json")
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert (found["rows_total"], found["missing_paths"], found["bad_labels"]) == (2, 2, 1)
    refused(fer("validate", "nothing.csv"), "no such manifest")
    refused(fer("validate", "m.csv", "--root", "nowhere"), "no such folder")


def test_trace_of_nothing(fer: Fer, tmp_path: Path) -> None:
    refused(fer("trace", "no-such-claim"), "nothing to trace for 'no-such-claim'", "allowed:")
    assert not (tmp_path / "outputs").exists(), "looking makes nothing"


def test_claims_are_verified_without_a_project(fer: Fer, tmp_path: Path) -> None:
    text = "version: 2\ntitle: T\nclaims:\n  - id: a\n    kind: sum\n    sentence: S\n"
    text += "    expected: 3\n    parts: [1, 2]\n"
    good, bad, newer = (tmp_path / f"{name}.yaml" for name in ("good", "bad", "newer"))
    good.write_text(text)
    bad.write_text(text.replace("[1, 2]", "[1, 3]"))
    newer.write_text(text.replace("version: 2", "version: 3"))
    (tmp_path / "folder").mkdir()
    done = fer("claims", "verify", "folder", "--claims", str(good))
    assert (done.returncode, "1 claims: 1 grounded." in done.stdout) == (0, True), done.stderr
    done = fer("claims", "verify", "folder", "--claims", str(bad), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["counts"]["contradicted"] == 1
    assert fer("claims", "verify", "--claims", str(bad)).returncode == 2
    refused(
        fer("claims", "verify", "folder", "--claims", str(newer)), "version 3", "allowed: 1 to 2"
    )
    refused(fer("claims", "verify", "folder"), "keeps no claims", "--claims")
    refused(fer("claims", "verify", "nowhere"), "no such folder")
    refused(fer("claims", "verify"), "claims file cannot be read", "claims/<profile>.yaml")
    schema = json.loads(fer("claims", "schema").stdout)
    assert schema["properties"]["version"]["const"] == 2


def test_doctor_says_what_is_missing_and_what_to_do(fer: Fer) -> None:
    done = fer("doctor", "-p", "ferplus", "--json")
    assert done.returncode == 1
    findings = {f["what"]: f for f in json.loads(done.stdout)}
    assert findings["data ferplus"]["state"] == "blocks"
    assert "[roots]" in findings["data ferplus"]["fix"]
    assert findings["detector haar"]["state"] == "ok"


def test_demo_without_a_bundle(fer: Fer) -> None:
    refused(
        fer("demo", "-p", "sample", "--headless", "--video", "x.avi"),
        "student_bundle has not been made yet",
    )
    refused(fer("card", "-p", "sample"), "student_bundle has not been made yet")
    refused(fer("demo", "--precision", "int8"), "--precision is of a profile's student")
    refused(fer("demo", "-p", "sample", "--bundle", "b"), "name two students")


def test_sessions_that_cannot_be_scored_or_learned_from(fer: Fer, tmp_path: Path) -> None:
    refused(fer("demo", "--score", "nowhere"), "per_frame.csv", "cannot be read")
    refused(fer("demo", "--buffer", "nowhere"), "--buffer needs --out")
    refused(fer("demo", "--buffer", "nowhere", "--out", "new"), "not recorded", "--record")
    assert not (tmp_path / "new").exists()


def test_the_pipeline_of_the_project_is_found_from_below(
    project: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fer_ml.base.settings import find_project

    pipeline = project("tiny")
    monkeypatch.delenv("FER_PROJECT")
    monkeypatch.chdir(pipeline.settings.project / "claims")
    assert find_project() == pipeline.settings.project


@pytest.mark.parametrize(("guest", "hidden"), [(False, ""), (True, ""), (False, "del os.fork")])
def test_the_ui_listens_on_loopback_and_can_be_read_only(
    fer: Fer, tmp_path: Path, guest: bool, hidden: str
) -> None:
    """What it would start, becoming that or (on Windows) waiting; ``test_ui.py`` starts it."""
    script = (
        f"import os, subprocess, sys\n{hidden}\n"
        "os.execv = lambda program, command: sys.exit(print('becomes', *command[1:]))\n"
        "subprocess.call = lambda command: print('waits', *command[1:]) or 0\n"
        "sys.argv = ['fer', 'ui', *sys.argv[1:]]\n"
        "from fer_assets.cli import main; main()"
    )
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("FER_", "DAGSTER_"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *(["--read-only"] if guest else [])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=keep,
        check=True,
    )
    command = done.stdout.splitlines()[-1].split()
    assert command[command.index("-h") + 1] == "127.0.0.1"
    assert command[2] == ("dagster_webserver" if guest else "dagster")
    assert command[0] == ("waits" if hidden or not hasattr(os, "fork") else "becomes")
    assert ("--read-only" in command) == guest
