"""Slices: the file's own lines, of which none is lost or cut."""

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.reading import DOCUMENT
from fer_ml.evidence import tables
from fer_ml.evidence.rows import Rows
from fer_ml.manifests.schema import write_manifest
from fer_ml.storage.store import RunFolder, Store
from tests.fer_ml.evidence.conftest import put


@given(st.lists(st.lists(st.text('a",\n\r;é<', max_size=6), min_size=2, max_size=2), max_size=9))
def test_records_are_the_file(rows: list[list[str]]) -> None:
    """A line break inside of quotes ends no record, and all of them joined are every byte."""
    quoted = [",".join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows]
    data = "".join(quoted).encode()
    assert tables._records(data) == [line.encode() for line in quoted]


def test_slices_are_the_whole_file_and_each_is_short(store: Store, tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f'{i},"</script>\n{"x" * 100}é"\n' for i in range(9_000))
    made = put(store, "manifest/a", lambda run: run.write_text("a.csv", text))
    held = tables.Tables(store, tmp_path)
    name = held.add(Rows(made, "a.csv"))
    assert held.known[name].rows == 9_000
    parts = sorted(tmp_path.glob("*.js"), key=lambda path: int(path.stem.rpartition(".")[2]))
    assert len(parts) == -(-9_000 // held.known[name].size) > 1
    assert max(path.stat().st_size for path in parts) < 2_000_000
    told = [re.fullmatch(r'fer\.rows\("\w+", (\d+), (".*")\);\n', p.read_text()) for p in parts]
    assert [found and int(found[1]) for found in told] == list(range(len(parts)))
    assert "".join(json.loads(found[2]) for found in told if found) == text


def test_a_table_may_be_larger_than_a_document(store: Store, tmp_path: Path) -> None:
    """As a manifest of half a million rows is; no slice is much longer than its longest row."""
    text = "a\n" + f"{'x' * 10**6}\n" * 70
    made = put(store, "manifest/a", lambda run: run.write_text("a.csv", text))
    assert made.record.files["a.csv"].bytes > DOCUMENT
    held = tables.Tables(store, tmp_path)
    assert held.known[held.add(Rows(made, "a.csv"))].rows == 70
    assert max(path.stat().st_size for path in tmp_path.glob("*.js")) < 2_000_000


def test_a_purged_photo_names_the_faces_in_it(
    store: Store, tmp_path: Path, manifest_in: Any
) -> None:
    """In a manifest of several sources a group is not the photo: the sample is looked up."""
    frame = manifest_in(store.root, [{}, {"sample_id": "s" * 32, "group_id": "p" * 32}])

    def fill(run: RunFolder) -> None:
        write_manifest(frame, run.path("a.csv"))

    put(store, "manifest/a", fill)
    held = tables.Tables(store, tmp_path)
    assert held.purged({"p" * 32: "2026-02-03T00:00:00"}) == {
        "p" * 32: "2026-02-03",
        "s" * 32: "2026-02-03",
    }


def test_a_table_without_a_row_has_its_header(store: Store, tmp_path: Path) -> None:
    made = put(store, "manifest/a", lambda run: run.write_text("a.csv", "a,b\n"))
    held = tables.Tables(store, tmp_path)
    name = held.add(Rows(made, "a.csv"))
    assert (held.known[name].rows, held.known[name].header) == (0, ["a", "b"])
    assert (tmp_path / f"{name}.0.js").read_text() == f'fer.rows("{name}", 0, "a,b\\n");\n'
