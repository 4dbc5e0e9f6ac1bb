"""Reading any manifest: nothing hides, nothing is lost, every line is accounted for."""

import csv
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fer_ml.validation import table as table_module
from fer_ml.validation.table import Table, read_table
from tests.refusals import refused

HEADER = "image_path,label,split,source,width,confidence"
GOOD = "a.png,Happy,train,s,48,0.5"


def read(tmp_path: Path, text: str | bytes) -> Table:
    path = tmp_path / "m.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path)


def test_cells_and_lines(tmp_path: Path) -> None:
    found = read(tmp_path, f'{HEADER}\n{GOOD}\n"b,1.png",Sad,test,s,,\n')
    rows = found.frame.select("line", "image_path", "label", "width", "confidence").rows()
    assert rows == [(2, "a.png", "Happy", 48, 0.5), (3, "b,1.png", "Sad", None, None)]
    assert found.malformed.is_empty()
    assert found.mistyped.is_empty()
    assert found.dialect == ()
    assert found.columns == tuple(HEADER.split(","))


@pytest.mark.parametrize("start", ["x\x01", "x", "-", "#", "x\u009c", "\ufeff"])
def test_no_beginning_of_a_row_is_taken_for_anything_else(tmp_path: Path, start: str) -> None:
    """Polars takes ``x`` with a control character behind it for a compressed text."""
    found = read(tmp_path, f"{HEADER}\n{start}{GOOD}\n{GOOD}\n")
    assert found.frame["image_path"].to_list() == [f"{start}a.png", "a.png"]
    assert found.frame["line"].to_list() == [2, 3]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"a.png,Happy,train,s,48", "5 of 6 fields"),
        (b"a.png,Happy,train,s,48,0.5,x", "7 of 6 fields"),
        (b"\xff.png,Happy,train,s,48,0.5", "it is not UTF-8"),
        (b"a\0.png,Happy,train,s,48,0.5", "it holds a NUL"),
        (b'"a.png,Happy,train,s,48,0.5', "its quotes are wrong"),
        (b'"a"x.png,Happy,train,s,48,0.5', "its quotes are wrong"),
        (b'"a,b.png",Happy,train,s,48', "5 of 6 fields"),
    ],
)
def test_a_damaged_line_is_one_finding_and_the_others_are_read(
    tmp_path: Path, line: bytes, fault: str
) -> None:
    good = GOOD.encode()
    found = read(tmp_path, b"\n".join([HEADER.encode(), good, line, good, b""]))
    assert found.frame["line"].to_list() == [2, 4]
    ((number, detail),) = found.malformed.rows()
    assert number == 3
    assert detail.startswith(fault)


@pytest.mark.parametrize(
    ("cell", "column", "what"),
    [
        ("wide", "width", "whole number"),
        ("4.5", "width", "whole number"),
        ("1e3", "width", "whole number"),
        ("99999999999999999999", "width", "whole number"),
        ("high", "confidence", "number"),
        ("nan", "confidence", "number"),
        ("inf", "confidence", "number"),
        ("0,5", "confidence", "number"),
    ],
)
def test_text_where_a_number_belongs(tmp_path: Path, cell: str, column: str, what: str) -> None:
    cells = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {column: cell}
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells.values())
    found = read(tmp_path, f"{HEADER}\n{buffer.getvalue()}")
    assert found.mistyped.rows() == [(2, f"{column}: '{cell}' is no {what}")]
    assert found.frame[column][0] is None


def test_other_dialects_are_read_and_named(tmp_path: Path) -> None:
    found = read(tmp_path, f"\ufeff{HEADER}\r\n{GOOD}\r\n\r\n{GOOD}")
    assert found.frame["line"].to_list() == [2, 4]
    assert found.frame["confidence"].to_list() == [0.5, 0.5]
    assert found.dialect == ("a byte order mark", "CRLF line ends", "1 empty lines")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "invalid-csv-header"),
        ("image_path,label,split", "missing-column"),
        ("image_path;label;split;source", "missing-column"),
        (" image_path,label,split,source", "missing-column"),
        ("image_path,label,split,source,label", "duplicate-column"),
        ('"image_path,label,split,source', "invalid-csv-header"),
    ],
)
def test_a_header_that_is_none(tmp_path: Path, header: str, code: str) -> None:
    with refused(code):
        read(tmp_path, f"{header}\n{GOOD}\n")


@pytest.mark.parametrize("header", [",".join(f"c{k}" for k in range(100_000)), "x" * (1 << 17)])
def test_a_header_without_end_is_refused_at_once(tmp_path: Path, header: str) -> None:
    with refused("too-many-columns") as caught:
        read(tmp_path, header)
    assert len(str(caught.value)) < 1000


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER).frame.is_empty()


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"é{i}.png,Happy,train,s,{i},0.5" for i in range(200)]
    lines[60] = '"x,y.png",Sad,test,s,1,1'
    lines[61] = "too,few"
    text = "\n".join([HEADER, *lines])
    whole = read(tmp_path, text)
    monkeypatch.setattr(table_module, "_BLOCK_BYTES", 50)
    parts = read(tmp_path, text)
    assert parts.frame.equals(whole.frame)
    assert parts.malformed.equals(whole.malformed)
    assert whole.malformed["line"].to_list() == [63]


def _by_csv_module(data: bytes) -> tuple[dict[int, list[str]], set[int]]:
    """Line by line with the csv module: rows by line, and lines that are none."""
    rows, bad = {}, set()
    for number, line in enumerate(data.split(b"\n")[1:], start=2):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        try:
            cells = next(csv.reader([line.decode()], strict=True))
        except (UnicodeDecodeError, csv.Error):
            cells = []
        if b"\0" in line or len(cells) != 6:
            bad.add(number)
        else:
            rows[number] = cells
    return rows, bad


@given(
    st.lists(
        st.one_of(
            st.just(GOOD.encode()),
            st.binary(max_size=30),
            st.lists(
                st.sampled_from([b"a", b'"', b",", b'"b,c"', b"\r", b"\0", b" ", b"\xc3\xa9"]),
                max_size=14,
            ).map(b"".join),
        ),
        max_size=12,
    )
)
@example([b"\r"])
@example([b'"\r"', GOOD.encode()])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_lost_whatever_the_bytes(tmp_path: Path, lines: list[bytes]) -> None:
    data = b"\n".join([HEADER.encode(), *lines])
    found = read(tmp_path, data)
    rows, bad = _by_csv_module(data)
    assert found.frame["line"].to_list() == sorted(rows)
    assert set(found.malformed["line"]) == bad
    paths = dict(found.frame.select("line", "image_path").iter_rows())
    assert paths == {line: cells[0] or None for line, cells in rows.items()}


def test_columns_of_others_are_left_alone(tmp_path: Path) -> None:
    found = read(tmp_path, f"{HEADER},note\n{GOOD},0.3\n")
    assert "note" in found.columns
    assert "note" not in found.frame.columns
    assert isinstance(found.frame, pl.DataFrame)
