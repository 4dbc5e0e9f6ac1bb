"""mlcroissant reads what is written, every row of it, and checks its hash."""

import json
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fer_ml.exchange import export_lineage
from fer_ml.exchange.facts import lineage_nodes
from fer_ml.manifests.schema import SCHEMA, write_manifest
from fer_ml.storage.store import Store
from tests.conftest import ManifestIn
from tests.refusals import refused


@pytest.fixture
def store(tmp_path: Path, manifest_in: ManifestIn) -> Store:
    store = Store(tmp_path / "home", "mine")
    frame = manifest_in(tmp_path / "home", 5).with_columns(
        pl.Series("orig_image", ['a "b", c.png', "d\ne.png", "é.png", "", "x;y.png"])
    )
    for asset in ("manifest/a", "classification_manifest"):
        with store.begin(asset) as run:
            write_manifest(frame, run.path(f"{asset.rpartition('/')[2]}.csv"))
            run.write_json("clean_report.json", {"rows": 5})
    with store.begin("label_review") as run:
        run.write_text("review.csv", "a\n1\n")
    return store


def exported(store: Store, out: Path, *assets: str) -> None:
    made = [artifact for asset in assets if (artifact := store.current(asset))]
    export_lineage(lineage_nodes(store, made, {}), "mine", "croissant", out)


def records(jsonld: Path) -> tuple[Any, dict[str, list[dict[str, Any]]]]:
    with warnings.catch_warnings():
        # Its own use of what rdflib has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import mlcroissant

        held = mlcroissant.Dataset(jsonld=str(jsonld))
        sets = held.metadata.record_sets
        return held, {each.uuid: list(held.records(each.uuid)) for each in sets}


def test_mlcroissant_reads_every_row(tmp_path: Path, store: Store) -> None:
    out = tmp_path / "out"
    exported(store, out, "manifest/a", "classification_manifest", "label_review")
    held, found = records(out / "croissant.json")
    assert not held.metadata.ctx.issues.errors
    assert sorted(found) == ["classification_manifest", "manifest_a"]
    frame = pl.read_csv(out / "manifest_a.csv", schema_overrides=SCHEMA)
    rows = found["manifest_a"]
    assert len(rows) == 5
    for row, wanted in zip(rows, frame.iter_rows(named=True), strict=True):
        told = {key.removeprefix("manifest_a/"): value for key, value in row.items()}
        assert list(told) == list(wanted)
        assert told["sample_id"].decode() == wanted["sample_id"]
        assert told["width"] == wanted["width"] == 24
        assert (
            told["orig_image"] == (wanted["orig_image"] or "").encode() or not wanted["orig_image"]
        )


def test_the_tables_are_the_artifacts_bytes(tmp_path: Path, store: Store) -> None:
    exported(store, tmp_path / "out", "manifest/a")
    told = json.loads((tmp_path / "out" / "croissant.json").read_text())
    made = store.current("manifest/a")
    assert made is not None
    (file,) = told["distribution"]
    assert file["sha256"] == made.record.files["a.csv"].sha256
    assert (tmp_path / "out" / file["contentUrl"]).read_bytes() == made.file("a.csv").read_bytes()
    (table,) = told["recordSet"]
    types = {field["name"]: field["dataType"] for field in table["field"]}
    assert types["votes"] == "sc:Text" and types["width"] == "sc:Integer"
    assert types["brightness"] == "sc:Float"


def test_a_table_that_was_changed_is_refused_by_its_reader(tmp_path: Path, store: Store) -> None:
    exported(store, tmp_path / "out", "manifest/a")
    table = tmp_path / "out" / "manifest_a.csv"
    table.write_text(table.read_text().replace(",train,", ",test,"))
    with pytest.raises(Exception) as caught:
        records(tmp_path / "out" / "croissant.json")
    assert str(caught.value.__cause__).startswith("Hash of downloaded file")


def test_without_a_manifest_there_is_nothing_to_describe(tmp_path: Path, store: Store) -> None:
    with refused("no-manifest-selected"):
        exported(store, tmp_path / "out", "label_review")
    assert not (tmp_path / "out").exists()
