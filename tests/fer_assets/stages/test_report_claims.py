"""The asset ``report_claims``: its files, and the gate that blocks the report."""

import csv
import hashlib
from pathlib import Path

from fer_assets.stage import Limits
from fer_assets.stages import report_claims
from fer_assets.stages.report_claims import ClaimsRecipe, judge
from fer_ml.claims.model import read_claims
from fer_ml.claims.verify import verify_folder
from fer_ml.recipes.builtin import sample
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.record import Input
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import PNG
from tests.refusals import refused

FIGURE = f"curves.png ({hashlib.sha256(PNG).hexdigest()[:12]})"
CLAIMS = """
version: 2
title: T
claims:
  - id: total
    kind: number
    sentence: "It is {value}."
    asset: benchmark
    file: benchmark.json
    pointer: /total
    expected: TOTAL
  - id: parts
    kind: sum
    sentence: "They are {value}."
    expected: 3
    parts: [1, 2]
  - id: curves
    kind: figure
    sentence: "Figure {value}."
    asset: student_dkd
    file: curves.png
"""


def build(store: Store, tmp_path: Path, total: str = "7") -> Artifact:
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIMS.replace("TOTAL", total))
    job = Job(
        asset="report_claims",
        partition=None,
        store=store,
        recipe=ClaimsRecipe.of(sample(), None),
        inputs={},
        paths={"claims": path},
    )
    with store.begin("report_claims") as run:
        report_claims.build(run, job)
    artifact = store.current("report_claims")
    assert artifact is not None
    return artifact


def test_its_files(store: Store, chain: dict[str, Artifact], tmp_path: Path) -> None:
    artifact = build(store, tmp_path)
    held = artifact.read_json("claims.json")
    assert (held["title"], held["profile"], held["synthetic"]) == ("T", "sample", True)
    assert [claim["status"] for claim in held["claims"]] == ["grounded"] * 3
    assert [claim["shown"] for claim in held["claims"]] == ["7", "3", FIGURE]
    assert artifact.record.summary["grounded"] == 3
    with artifact.file("claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sentence"] for row in rows] == ["It is 7.", "They are 3.", f"Figure {FIGURE}."]
    assert [row["asset"] for row in rows] == ["benchmark", "", "student_dkd"]
    assert read_claims(artifact.file("claims.yaml")).title == "T"
    for claim in held["claims"]:
        # What templates print without asking whether it is there.
        assert all(isinstance(claim["artifact"][key], str) for key in ("asset", "file", "pointer"))
        assert isinstance(claim["decimals"], int)
    assert verify_folder(store.root).green


def test_a_raw_folder_that_was_moved_does_not_stop_it(
    store: Store, chain: dict[str, Artifact], raw: dict[str, Input], tmp_path: Path
) -> None:
    Path(str(raw["a"].root)).rename(tmp_path / "moved")
    held = build(store, tmp_path).read_json("claims.json")
    assert held["counts"]["grounded"] == 3
    assert held["not_looked_at"] == ["raw/a"]


def test_the_gate_passes_only_when_every_claim_is_grounded(
    store: Store, chain: dict[str, Artifact], tmp_path: Path
) -> None:
    (good,) = judge(build(store, tmp_path), store, Limits())
    assert (good.passed, good.value) == (True, 0)
    (bad,) = judge(build(store, tmp_path, "8"), store, Limits())
    assert (bad.passed, bad.value) == (False, 1)
    assert bad.examples == ("total: contradicted, the artifact holds 7, the claim says 8",)


def test_a_missing_claims_file_leaves_nothing(store: Store, tmp_path: Path) -> None:
    recipe = ClaimsRecipe.of(sample(), None)
    job = Job("report_claims", None, store, recipe, {}, {"claims": tmp_path / "no.yaml"})
    with refused("unreadable-file"), store.begin("report_claims") as run:
        report_claims.build(run, job)
    assert store.current("report_claims") is None
