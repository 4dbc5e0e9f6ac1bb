"""Artifact roots that earlier versions wrote, opened by this one.

``2026-11-24-first`` is the first complete version; ``2026-11-24-claims`` has claims of nine kinds,
teachers out of fold and seals, and no run folder that holds faces.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_assets.migrating import changes
from fer_ml.base.settings import read_config, settings
from fer_ml.base.versions import OtherVersion
from fer_ml.bundles.bundle import load_bundle
from fer_ml.claims.model import read_claims
from fer_ml.claims.verify import verify_folder
from fer_ml.distillation.logits import read_taught
from fer_ml.storage.store import Store
from fer_ml.training.checkpoint import load_checkpoint
from tests.compatibility import tiny_network
from tests.refusals import refused

HERE = Path(__file__).parent
FIXTURES = sorted(HERE.glob("*.tar.xz"))
#: What must be made again, since its form is another one: by fixture, the assets' files.
MADE_AGAIN = {
    "2026-11-24-first": {"benchmark.json", "ensemble.json", "hash_manifest.json", "sharpness.json"}
    | {"selection.json"},
}


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.name.partition(".")[0])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked project of an earlier version."""
    folder = tmp_path_factory.mktemp("earlier") / request.param.name.partition(".")[0]
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def store(root: Path) -> Store:
    return Store(root / "outputs" / "tiny", "tiny")


def test_there_are_two_at_least() -> None:
    assert len(FIXTURES) >= 2
    assert tiny_network.NAME == "fer_tiny"


def test_every_record_and_receipt_is_read_and_every_byte_is_there(store: Store) -> None:
    found = list(store.every())
    assert len(found) > 15
    assert store.faults() == []
    for artifact in found:
        assert artifact.damage() is None, artifact.key
        receipts = list((artifact.folder / "receipts").glob("*.json"))
        assert len(artifact.receipts()) == len(receipts), artifact.key
        held = store.current(artifact.record.asset, artifact.record.partition)
        assert held is not None and held.sha256 == artifact.sha256


def test_models_compute(store: Store) -> None:
    bundle = load_bundle(store.verified("student_bundle").folder)
    size = bundle.card.preprocess.size
    faces = np.zeros((2, size, size, 3), np.uint8)
    assert bundle.probabilities(faces).sum(axis=1) == pytest.approx([1, 1])
    for asset, partition in (("teacher", "RN18"), ("student_ce", None), ("student_dkd", None)):
        checkpoint = load_checkpoint(store.verified(asset, partition).file("best.pt"))
        assert checkpoint.recipe.architecture == tiny_network.NAME
        assert checkpoint.recipe.strength == 0.3, "augment = 0.3 of the first version"
        assert checkpoint.recipe.precision == "fp32"
        checkpoint.network()


def has_sources(store: Store) -> bool:
    """Whether the fixture has the manifests of single sources: later ones hold faces."""
    return store.current("manifest/expw_full") is not None


def test_claims_are_read_and_verified(root: Path, store: Store) -> None:
    path = root / "claims" / "tiny.yaml"
    claims = {claim.id: claim for claim in read_claims(path).claims}
    assert claims["rows"].kind == "number"
    assert claims["accuracy"].kind == "proportion"
    found = verify_folder(store.root, path)
    told = store.verified("report_claims").read_json("claims.json")["claims"]
    values = {claim["id"]: claim["value"] for claim in told}
    assert values
    here = [c for c in found.claims if c.claim.asset != "manifest/expw_full" or has_sources(store)]
    assert len(here) >= 3
    for claim in here:
        assert claim.value == values[claim.claim.id], claim.reason


def test_what_is_of_another_form_is_refused_with_what_to_do(root: Path, store: Store) -> None:
    unread = set()
    for artifact in store.every():
        for name in artifact.record.files:
            if name.endswith(".json"):
                try:
                    artifact.read_json(name)
                except OtherVersion as error:
                    assert error.fix is not None and "fer materialize" in error.fix
                    unread.add(name)
    assert unread == MADE_AGAIN.get(root.name, set())
    labels = store.verified("teacher_logits", "RN18").folder
    if root.name == "2026-11-24-first":
        with refused("older-version"):
            read_taught(labels)
    else:
        assert read_taught(labels).centre.values.shape[1] == 7


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an earlier project that may be changed."""
    folder = tmp_path / root.name
    shutil.copytree(root, folder)
    shutil.copy(HERE.parent.parent / "workspace.yaml", folder)
    monkeypatch.setenv("FER_PROJECT", str(folder))
    monkeypatch.setenv("FER_HOME", str(folder / "outputs"))
    settings.cache_clear()
    return folder


def test_a_migration_changes_what_it_says_and_no_artifact(project: Path) -> None:
    before = tree(project)
    config = read_config(project / "fer.toml")
    claims = read_claims(project / "claims" / "tiny.yaml")
    found = list(changes(settings()))
    assert tree(project) == before, "planning changes nothing"
    for change in found:
        change.carry_out()
    after = tree(project)
    changed = {path for path in after if after[path] != before.get(path)}
    kept = {f"{change.where}.v1" for change in found}
    assert changed == {str(change.where) for change in found} | kept
    assert all(after[path] == before[path.removesuffix(".v1")] for path in kept)
    # The same is read, without a step.
    assert read_config(project / "fer.toml") == config
    assert read_claims(project / "claims" / "tiny.yaml") == claims
    assert list(changes(settings())) == []
    first = project.name == "2026-11-24-first"
    assert {change.where.name for change in found} == (
        {"fer.toml", "tiny.yaml"} if first else set()
    )


def test_an_interrupted_migration_goes_on(project: Path) -> None:
    found = list(changes(settings()))
    for change in found[:1]:
        change.carry_out()
    rest = list(changes(settings()))
    assert [change.where for change in rest] == [change.where for change in found[1:]]


def test_the_command_says_what_it_would_do(project: Path) -> None:
    before = tree(project / "claims")
    told = subprocess.run(
        [sys.executable, "-c", "from fer_assets.cli import main; main()", "migrate", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=project,
        check=False,
    )
    assert tree(project / "claims") == before
    first = project.name == "2026-11-24-first"
    assert ("would change" in told.stdout) == first, told.stderr
    assert ("Nothing to migrate" in told.stdout) != first


@pytest.mark.parametrize("name", ["record.json", "current.json", "receipts", "benchmark.json"])
def test_what_a_newer_platform_wrote_is_refused(project: Path, name: str) -> None:
    store = Store(project / "outputs" / "tiny", "tiny")
    artifact = store.verified("benchmark")
    places: dict[str, tuple[Path, Callable[[], object]]] = {
        "record.json": (artifact.folder / name, lambda: store.current("benchmark")),
        "current.json": (artifact.folder.parent / name, lambda: store.current("benchmark")),
        "receipts": (artifact.folder / name / "every_row_scored.json", artifact.receipts),
        "benchmark.json": (artifact.folder / name, lambda: artifact.read_json(name)),
    }
    path, read = places[name]
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "schema_version": 99}))
    with refused("newer-version", where=path):
        read()
