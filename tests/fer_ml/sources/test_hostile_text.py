"""Whatever stands in an index file, an adapter answers with rows or with a ``FerError``.

And it answers the same whether it reads plain lines a column at a time or not.
"""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.base.errors import FerError
from fer_ml.sources import _listing, get_adapter, listing_schema
from tests.refusals import refused

INDEX = {
    "ferplus_votes": "fer2013new.csv",
    "fer2013_csv": "fer2013.csv",
    "rafdb_basic": "EmoLabel/list_patition_label.txt",
    "rafdb_compound": "EmoLabel/list_partition_label.txt",
    "rafml_argmax": "EmoLabel/distribution.txt",
    "expw": "label.lst",
    "csv_manifest": "manifest.csv",
}
HAS_HEADER = {"ferplus_votes", "fer2013_csv", "csv_manifest"}

VOTE_COLUMNS = b"neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
BOX_COLUMNS = b"bbox_left,bbox_top,bbox_right,bbox_bottom"
HEADERS = {
    "ferplus_votes": b"Usage,Image name," + VOTE_COLUMNS,
    "fer2013_csv": b"emotion,pixels,Usage",
    "csv_manifest": b"file,label,split,confidence,face_id,"
    + BOX_COLUMNS
    + b",weight,neg_label,age",
}
GOOD = {
    "ferplus_votes": HEADERS["ferplus_votes"] + b"\nTraining,a.png,1,2,0,0,4,0,3,0,0,0\n" * 2,
    "fer2013_csv": HEADERS["fer2013_csv"] + b"\n3," + b"10 " * 2303 + b"9,Training\n",
    "csv_manifest": HEADERS["csv_manifest"] + b'\n"a.png",happy,val,0.5,0,1,2,3,4,0.5,sad,20-29\n',
    "rafdb_basic": b"train_1.jpg 1\ntest_2.jpg 7\n",
    "rafdb_compound": b"train_1.jpg 1\ntest_2.jpg 7\n",
    "rafml_argmax": b"1.jpg 0.1 0 0 0.7 0.2 0\n2.jpg 0.5 0.5 0 0 0 0\n",
    "expw": b"a.jpg 0 10 20 60 70 62.5 3\nb.jpg 1 1 2 3 4 5 6",
}

NASTY_TEXT = ("\0", "\n", "\r", ",", '"', " ", "\t", "\x0b", "-", "1e999", "nan", "/", "../", "\\")
NASTY = st.sampled_from(
    [text.encode() for text in (*NASTY_TEXT, "²", "٣", "\u2028", "9" * 400)]
    # The last two are no UTF-8: a stray byte, and half of a surrogate pair.
    + [b"\xff", b"\xed\xa0\x80"]
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), NASTY), min_size=1, max_size=6)
QUICK = settings(
    max_examples=60,
    # The tree is only read, but for the index file, which every example writes afresh.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def lines_in(data: bytes) -> int:
    """Lines as ``wc`` counts them, and one more for an end without a line break."""
    return data.count(b"\n") + (0 if data.endswith(b"\n") or not data else 1)


def check(name: str, root: Path, data: bytes) -> None:
    (root / INDEX[name]).write_bytes(data)
    try:
        frame = get_adapter(name).listing(root)
    except FerError:
        return
    assert dict(frame.schema) == listing_schema()
    # RAF-ML adds the lines of its second file that match none in the first.
    frame = frame.filter(~pl.col("where").str.starts_with("partition_label"))
    assert frame.height == lines_in(data) - (name in HAS_HEADER)
    outcomes = [pl.col(column).is_not_null() for column in ("label", "excluded", "fault")]
    assert frame.select(pl.sum_horizontal(outcomes) == 1).to_series().all()


@pytest.fixture(params=INDEX)
def case(request: pytest.FixtureRequest, make_tree: Callable[[str], Path]) -> tuple[str, Path]:
    return request.param, make_tree(request.param)


@QUICK
@given(data=st.binary(max_size=200))
def test_random_bytes(case: tuple[str, Path], data: bytes) -> None:
    check(*case, data)


@QUICK
@given(data=st.text(st.sampled_from("aA1.,-/\\\"' \t\r\n\0é"), max_size=80))
def test_random_text_below_a_good_header(case: tuple[str, Path], data: str) -> None:
    name, root = case
    header = HEADERS[name] + b"\n" if name in HAS_HEADER else b""
    check(name, root, header + data.encode())


@QUICK
@given(edits=EDITS)
def test_good_file_with_edits(
    case: tuple[str, Path], edits: list[tuple[float, int, bytes]]
) -> None:
    name, root = case
    data = bytearray(GOOD[name])
    for place, removed, inserted in edits:
        at = int(place * len(data))
        data[at : at + removed] = inserted
    check(name, root, bytes(data))


# Cells of the adapters that read plain lines a column at a time: what is usual, and what is odd.
NAMES = (
    ["train_1.jpg", "test_2.jpg", "a.b.png", "x"],
    [
        "",
        ".jpg",
        "..",
        "a..b",
        "é.png",
        "/a.png",
        "C:a.png",
        "x/../y.png",
        "train",
        "a\u00a0b",
        "\0",
    ],
)
PATHS = (["a.png", "x/b.png"], [*NAMES[1], "x/.b.png", "x//b.png", "a b.png", '"a.png"', '"a,b"'])
COUNTS = (
    ["0", "1", "2", "5", "9" * 15],
    ["", "01", "-0", "-3", "+1", "1_0", "1.0", "٣", "9" * 16, " 1", '"1"'],
)
NUMBERS = (
    ["0", "62.5", "0.1", "0.7", "0.30000000000000004", "123456789012345.123456789012345"],
    ["", "1e3", ".5", "5.", "-0.5", "-0.0", "1e999", "nan", "1_0", "٣.5", "+1"],
)
IDS = (["0", "1", "3", "6"], ["7", "11", "12", "01", "-1", "x", ""])
WORDS = (["happy", "Fear", "contempt"], ["hapy", "Non-Face", "not a face", "", "Happy ", '"sad"'])
NEGATIVES = (["", "sad", "Anger"], ["happy", "Fear", "hapy", "contempt", " ", '"sad"'])
SPLIT_WORDS = (["train", "val"], ["", "dev", "unassigned", "Train", "fold", " val"])
USAGES = (["Training", "PublicTest", "PrivateTest"], ["Holdout", "", "training"])
CELLS = {
    "ferplus_votes": [USAGES, NAMES, *[COUNTS] * 10],
    "rafdb_basic": [NAMES, IDS],
    "rafdb_compound": [NAMES, IDS],
    "rafml_argmax": [NAMES, *[NUMBERS] * 6],
    "expw": [NAMES, *[COUNTS] * 5, NUMBERS, IDS],
    "csv_manifest": [PATHS, WORDS, SPLIT_WORDS, NUMBERS, COUNTS, *[COUNTS] * 4, NUMBERS, NEGATIVES],
}


def a_line(cells: list[tuple[list[str], list[str]]], separator: str) -> st.SearchStrategy[bytes]:
    """A usual line, one with an odd cell or two, or one that no longer has its cells."""

    @st.composite
    def draw_line(draw: st.DrawFn) -> bytes:
        fields = [draw(st.sampled_from(usual)) for usual, _ in cells]
        for place in draw(st.lists(st.integers(0, len(cells) - 1), max_size=2)):
            fields[place] = draw(st.sampled_from(cells[place][1]))
        line = bytearray(separator.join(fields).encode())
        if draw(st.integers(0, 4)) == 0:
            at = draw(st.integers(0, len(line)))
            line[at : at + draw(st.integers(0, 2))] = draw(NASTY)
        return bytes(line) + draw(st.sampled_from([b"\n"] * 5 + [b"\r\n", b"\r\r\n", b" \n"]))

    return draw_line()


@settings(QUICK, max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("name", CELLS)
def test_plain_lines_are_read_as_the_parser_reads_them(
    name: str, make_tree: Callable[[str], Path], tmp_path: Path, data: st.DataObject
) -> None:
    root = tmp_path / name if (tmp_path / name).exists() else make_tree(name)
    text = b"".join(data.draw(st.lists(a_line(CELLS[name], "," if name in HEADERS else " "))))
    text = data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + (
        HEADERS[name] + b"\n" + text if name in HEADERS else text
    )
    if data.draw(st.booleans()):
        text = text.removesuffix(b"\n")
    (root / INDEX[name]).write_bytes(text)
    if name == "rafml_argmax":
        words = (["0", "1"], ["2", "", "01"])
        lines = data.draw(st.lists(a_line([NAMES, words], " "), max_size=6))
        (root / "EmoLabel/partition_label.txt").write_bytes(
            b"train_1.jpg 0\ntest_2.jpg 1\n" + b"".join(lines)
        )
    votes = data.draw(st.sampled_from(["majority", "distribution"]))
    options = {"votes": votes} if name == "ferplus_votes" else {}

    found = outcome(name, root, options)
    with mock.patch.object(_listing, "plain_line", lambda *_: "[^\\s\\S]"):
        expected = outcome(name, root, options)
    if isinstance(found, pl.DataFrame) and isinstance(expected, pl.DataFrame):
        assert found.to_dicts() == expected.to_dicts()
    else:
        assert found == expected


def outcome(name: str, root: Path, options: dict[str, str]) -> pl.DataFrame | str:
    try:
        return get_adapter(name).listing(root, **options)
    except FerError as error:
        return str(error)


@pytest.mark.parametrize("name", CELLS)
def test_usual_lines_are_plain(name: str, make_tree: Callable[[str], Path]) -> None:
    root = make_tree(name)
    good = GOOD[name].replace(b'"', b"").replace(b"\n\n", b"\n")
    (root / INDEX[name]).write_bytes(good)
    if name == "rafml_argmax":
        (root / "EmoLabel/partition_label.txt").write_text("1.jpg 0\n2.jpg 1\n")

    with mock.patch.object(_listing, "read_rows", side_effect=AssertionError("parsed by line")):
        frame = get_adapter(name).listing(root)
    assert frame.height == lines_in(good) - (name in HAS_HEADER)
    assert frame["fault"].null_count() == frame.height


@pytest.mark.parametrize("adapter", sorted(HAS_HEADER))
def test_a_csv_of_columns_without_end_is_refused(tmp_path: Path, adapter: str) -> None:
    index = tmp_path / INDEX[adapter]
    (tmp_path / "FER2013Train").mkdir()  # Where ferplus_votes looks for the images first.
    header = HEADERS[adapter] + b"".join(b",more%d" % k for k in range(50_000))
    index.write_bytes(header + b"\n" + b"," * header.count(b",") + b"\n")
    with refused("too-many-columns"):
        get_adapter(adapter).listing(tmp_path)
