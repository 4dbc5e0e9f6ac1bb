"""The artifact that adopting makes: bound to its bytes, and made again from its copies."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.adoption.build import build_again
from fer_ml.adoption.folder import recognise
from fer_ml.base.errors import FerError
from fer_ml.base.reading import sha256_file
from fer_ml.storage.store import Store
from fer_ml.training.checkpoint import load_checkpoint
from tests.fer_ml.adoption import first_pipeline as old
from tests.fer_ml.adoption.conftest import Adopt, job_in
from tests.refusals import refused


def test_files_are_copied_as_they_are_and_no_path_of_a_machine_is_told(
    tmp_path: Path, adopt: Adopt, store: Store
) -> None:
    folder = old.teacher_run(tmp_path / "run")
    artifact = adopt(folder)
    told = artifact.read_json("adoption.json")
    for name, entry in told["files"].items():
        assert entry["sha256"] == sha256_file(folder / name) == sha256_file(artifact.file(name))
    assert str(tmp_path) not in json.dumps(told) + artifact.record.model_dump_json()
    assert load_checkpoint(artifact.file("best.pt")).recipe.architecture == "test_resnet"
    # Every file counts for the content hash, also one that is volatile elsewhere.
    path = folder / "history.json"
    path.write_text(path.read_text().replace("0.0001", "0.0002"))
    assert adopt(folder).sha256 != artifact.sha256


def test_made_again_it_is_examined_anew_from_its_copies(
    tmp_path: Path, adopt: Adopt, store: Store
) -> None:
    first = adopt(old.teacher_run(tmp_path / "run"))
    with store.begin("adopted", "x") as run:
        build_again(run, job_in(store))
    again = store.current("adopted", "x")
    assert again is not None and again.folder != first.folder
    assert again.sha256 == first.sha256
    again.file("history.json").write_text("[]")
    with refused("artifact-changed"), store.begin("adopted", "x") as run:
        build_again(run, job_in(store))


def test_a_manifest_that_is_known_by_hash(tmp_path: Path, adopt: Adopt, store: Store) -> None:
    csv = old.manifest(tmp_path / "m.csv")
    manifest = adopt(csv)
    run = adopt(old.teacher_run(tmp_path / "r", manifest_sha256=sha256_file(csv)), [manifest])
    assert [i.sha256 for i in run.record.inputs] == [manifest.sha256]
    assert "no manifest with the named hash" not in str(run.read_json("adoption.json"))
    old.manifest(csv, "a.png,Happy,train,x")
    with refused("manifest-mismatch"):
        adopt(tmp_path / "r", [adopt(csv)])


def test_weights_as_safetensors_are_kept_when_made_again(
    tmp_path: Path, adopt: Adopt, store: Store
) -> None:
    folder = old.student_run(tmp_path / "run")
    (folder / "best.pt").unlink()
    first = adopt(folder)
    assert {"best.pt", "best.safetensors"} <= set(first.record.files)
    with store.begin("adopted", "x") as run:
        build_again(run, job_in(store))
    again = store.current("adopted", "x")
    assert again is not None and again.sha256 == first.sha256


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def replace_somewhere(held: Any, value: Any, rng: random.Random) -> Any:
    """The document with ``value`` at some place of it."""
    if rng.random() < 0.2 or not isinstance(held, dict | list) or not held:
        return value
    keys = list(held) if isinstance(held, dict) else range(len(held))
    key = rng.choice(list(keys))
    copy = dict(held) if isinstance(held, dict) else list(held)
    copy[key] = replace_somewhere(held[key], value, rng)
    return copy


MADE = {
    "run": (old.teacher_run, ("history", "reliabilitymetrics", "calibration", "alignmentreport")),
    "student": (old.student_run, ("history", "reliabilitymetrics", "calibration")),
    "evaluation": (old.evaluation, ("reliabilitymetrics", "eval_meta")),
    "soft": (
        old.softlabels,
        ("classorder", "hash_manifest", "alignmentreport", "ensemble_metrics"),
    ),
}


@pytest.mark.parametrize("kind", MADE)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, seed=st.integers(0, 10_000))
def test_any_json_is_either_refused_or_told(
    tmp_path: Path, adopt: Adopt, kind: str, value: Any, seed: int
) -> None:
    folder = tmp_path / "f"
    make, names = MADE[kind]
    if not folder.exists():
        make(folder)
    rng = random.Random(seed)
    path = folder / f"{rng.choice(names)}.json"
    before = path.read_text()
    path.write_text(json.dumps(replace_somewhere(json.loads(before), value, rng)))
    try:
        artifact = adopt(folder)
    except FerError:
        pass
    else:
        assert artifact.damage() is None
        assert artifact.read_json("adoption.json")["kind"] == recognise(folder).kind
    finally:
        path.write_text(before)
