"""The digest names what is red, stale or unverified, and is green only when all is."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.digest import Entry, digest_of
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.stages import gates_of
from fer_ml.storage.artifact import RECEIPTS

CLAIMS = """
version: 2
title: Rows
claims:
  - {id: rows, kind: number, sentence: "{value} rows.", asset: classification_manifest,
     file: clean_report.json, pointer: /manifest/rows}
  - {id: wrong, kind: number, sentence: "{value} rows.", asset: classification_manifest,
     file: clean_report.json, pointer: /manifest/rows, expected: 3}
  - {id: none, kind: number, sentence: "{value}", asset: student_ce, file: training.json,
     pointer: /steps}
"""


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("tiny")
    pipeline.claims_file().write_text(CLAIMS)
    with dg.DagsterInstance.get() as instance:
        materialize(
            pipeline, instance, select=lambda t: pipeline.stage(t.asset).group == "manifests"
        )
    return pipeline


def entries(pipeline: Pipeline, state: str, **now: float) -> dict[str, Entry]:
    later = digest_of(pipeline).looked_at + timedelta(**now)
    return {e.name: e for e in digest_of(pipeline, later).entries if e.state == state}


@contextmanager
def edited(path: Path, data: bytes | None) -> Iterator[None]:
    """The file with other bytes, or gone."""
    held = path.read_bytes()
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(held)


def test_claims_are_sorted_by_what_became_of_them(tiny: Pipeline) -> None:
    assert set(entries(tiny, "red")) == {"wrong"}
    assert "3" in entries(tiny, "red")["wrong"].what
    assert entries(tiny, "stale") == {}
    assert set(entries(tiny, "unverified")) == {"none"}
    found = digest_of(tiny)
    assert (found.claims, found.made) == (3, 9)
    assert found.not_made == sum(tiny.standard(t) for t in tiny.targets()) - 9


def test_without_a_fault_all_is_green(tiny: Pipeline) -> None:
    with edited(tiny.claims_file(), CLAIMS.split("  - {id: wrong")[0].encode()):
        found = digest_of(tiny)
    assert [e for e in found.entries if e.state != "warns"] == []
    warns, missing = found.counts["warns"], f"{found.not_made} not made"
    assert found.headline in (f"fer tiny: {s}, {missing}" for s in ("all green", f"{warns} warns"))


def test_where_nothing_was_made_nothing_is_green(tiny: Pipeline, tmp_path: Path) -> None:
    empty = replace(tiny, store=replace(tiny.store, root=tmp_path))
    assert digest_of(empty).headline.startswith("fer tiny: nothing looked at, ")


def test_bytes_that_changed_are_red_and_so_are_their_claims(tiny: Pipeline) -> None:
    artifact = tiny.store.current("classification_manifest")
    assert artifact
    path = artifact.file("leakage.json")
    with edited(path, path.read_bytes() + b" "):
        red = entries(tiny, "red")
    assert set(red) == {"classification_manifest", "rows", "wrong"}
    assert red["classification_manifest"].what.startswith("damaged: leakage.json")
    assert red["classification_manifest"].resting > 10


def test_another_artifact_in_its_place_is_red_and_so_is_what_rests_on_it(tiny: Pipeline) -> None:
    other = tiny.store.current("classification_manifest")
    home = tiny.store.home("hq_train_manifest")
    assert other
    shutil.copytree(other.folder, home / other.folder.name)
    pointer = other.folder.parent / "current.json"
    try:
        with edited(home / "current.json", pointer.read_bytes()):
            found = digest_of(tiny)
    finally:
        shutil.rmtree(home / other.folder.name)
    red = {entry.name: entry for entry in found.entries if entry.state == "red"}
    assert "classification_manifest" in red["hq_train_manifest"].what
    assert str(home) in red["hq_train_manifest"].what


def test_a_red_gate_has_value_limit_and_fix(tiny: Pipeline) -> None:
    artifact = tiny.store.current("hq_train_manifest")
    assert artifact
    path = artifact.folder / RECEIPTS / "undecodable.json"
    receipt = {**json.loads(path.read_text()), "passed": False, "value": 4}
    with edited(path, json.dumps(receipt).encode()):
        entry = entries(tiny, "red")["hq_train_manifest undecodable"]
    assert entry.what.startswith("4, limit 0")
    first, _, then = entry.fix.rpartition("; then ")
    assert then == "fer materialize -p tiny --select hq_train_manifest"
    assert first == next(g.fix for g in gates_of("hq_train_manifest") if g.rule == "undecodable")
    with edited(path, None):
        assert "hq_train_manifest undecodable" in entries(tiny, "unverified")


def test_a_changed_source_is_stale_and_an_absent_one_unverified(tiny: Pipeline) -> None:
    root = tiny.store.root / "drawn" / "raw" / "expw_full"
    (root / "new").write_bytes(b"")
    try:
        assert entries(tiny, "stale")["manifest/expw_full"].what == ("changed input: raw/expw_full")
    finally:
        (root / "new").unlink()
    profile = tiny.profile.model_copy(update={"drawn": False})
    elsewhere = replace(tiny, profile=profile)
    found = entries(elsewhere, "unverified")
    assert {name for name in found if name.startswith("raw/")} == {
        f"raw/{source.name}" for source in tiny.profile.sources
    }
    assert "manifest/expw_full" not in entries(elsewhere, "stale"), "nobody knows that it changed"


def test_a_validation_that_nobody_repeated_is_unverified(tiny: Pipeline) -> None:
    assert "manifest_validation" not in entries(tiny, "unverified", hours=25)
    assert "limit 26 h" in entries(tiny, "unverified", hours=27)["manifest_validation"].what


def test_the_command_prints_json_and_one_page_without_scripts(
    tiny: Pipeline, tmp_path: Path
) -> None:
    page = tmp_path / "digest.html"
    command = [sys.executable, "-c", "from fer_assets.cli import main; main()", "digest"]
    done = subprocess.run(
        [*command, "--json", "--html", str(page)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stdout)
    assert told["counts"] == digest_of(tiny).counts
    text = page.read_text()
    for entry in told["entries"]:
        assert entry["name"] in text
    assert not re.search("<script|<img|https?:", text)


def test_names_are_escaped_in_the_page(tiny: Pipeline) -> None:
    evil = Entry("red", "claim", "<script>x</script>", "<b>", "fer trace <i>")
    text = replace(digest_of(tiny), entries=(evil,)).page()
    assert "<script>" not in text and "<b>" not in text and "<i>" not in text
    assert "&lt;script&gt;" in text
