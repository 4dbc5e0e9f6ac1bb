"""A manifest on disk: its bytes, its parquet twin, and the columns that are there when needed."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from fer_ml.manifests import schema
from fer_ml.manifests.schema import SCHEMA, attributes_of, read_manifest, write_manifest
from fer_ml.sources import ATTRIBUTES
from tests.refusals import refused


def test_what_is_written_is_read(
    make_manifest: Callable[..., pl.DataFrame], tmp_path: Path
) -> None:
    rows = make_manifest([{"age": "20-29", "votes": "1;2"}, {"confidence": 0.25}, {"weight": 2.0}])
    write_manifest(rows, tmp_path / "m.csv")
    assert_frame_equal(read_manifest(tmp_path / "m.csv"), rows)
    parquet = pl.read_parquet(tmp_path / "m.parquet")
    assert_frame_equal(parquet, rows.drop("sex", "ethnicity"))


def test_what_nobody_says_of_people_has_no_column(
    make_manifest: Callable[..., pl.DataFrame], tmp_path: Path
) -> None:
    rows = make_manifest(2)
    write_manifest(rows, tmp_path / "m.csv")
    header = (tmp_path / "m.csv").read_text().splitlines()[0].split(",")
    assert header == [name for name in SCHEMA if name not in ATTRIBUTES]
    assert_frame_equal(read_manifest(tmp_path / "m.csv"), rows)


def test_several_parts_have_the_columns_that_one_of_them_needs(
    make_manifest: Callable[..., pl.DataFrame], tmp_path: Path
) -> None:
    rows = make_manifest([{}, {"sex": "female"}])
    parts = [rows[:1], rows[1:]]
    for name, part in zip("ab", parts, strict=True):
        write_manifest(part, tmp_path / f"{name}.csv")
    found = attributes_of([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert found == ["sex"]
    write_manifest(iter(parts), tmp_path / "both.csv", found)
    assert_frame_equal(read_manifest(tmp_path / "both.csv"), rows)


def test_a_missing_column_is_named(
    make_manifest: Callable[..., pl.DataFrame], tmp_path: Path
) -> None:
    make_manifest(1).drop("twin_in").write_csv(tmp_path / "m.csv")
    with refused("missing-column") as caught:
        read_manifest(tmp_path / "m.csv")
    assert "twin_in" in caught.value.what


@pytest.mark.parametrize("name", ["fer [copy]", "a*b", "q?", "{x,y}", "~", "a%20b", "-d", "s3:x"])
def test_a_folder_may_be_called_anything(
    make_manifest: Callable[..., pl.DataFrame], tmp_path: Path, name: str
) -> None:
    """And another one that its name would match as a pattern is not read in its place."""
    (tmp_path / name).mkdir()
    (tmp_path / name.replace("*", "XX").replace("?", "X")).mkdir(exist_ok=True)
    rows = make_manifest([{"age": "20-29"}, {}])
    write_manifest(rows, tmp_path / name / "m.csv")
    assert_frame_equal(read_manifest(tmp_path / name / "m.csv"), rows)
    assert attributes_of([tmp_path / name / "m.csv"]) == ["age"]
    assert (tmp_path / name / "m.parquet").is_file()


@pytest.mark.parametrize("size", [1, 4, 7, 1 << 20])
def test_a_short_or_a_blank_line_is_read_alike_wherever_a_part_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    csv, columns = tmp_path / "x.csv", dict.fromkeys("ab", pl.String())
    csv.write_text("a,b\n1\n2,3\n\n4,5\n")
    monkeypatch.setattr(schema, "_PART_BYTES", size)
    rows = pl.concat(schema._parse(csv, columns))
    assert_frame_equal(rows, pl.read_csv(csv, schema=columns))
