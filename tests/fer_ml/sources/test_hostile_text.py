"""Whatever stands in an index file, an adapter answers with rows or with a ``FerError``."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.errors import FerError
from fer_ml.sources import get_adapter, listing_schema

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
    "csv_manifest": b"file,label,split,confidence,face_id," + BOX_COLUMNS,
}
GOOD = {
    "ferplus_votes": HEADERS["ferplus_votes"] + b"\nTraining,a.png,1,2,0,0,4,0,3,0,0,0\n" * 2,
    "fer2013_csv": HEADERS["fer2013_csv"] + b"\n3," + b"10 " * 2303 + b"9,Training\n",
    "csv_manifest": HEADERS["csv_manifest"] + b'\n"a.png",happy,val,0.5,0,1,2,3,4\n',
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
    deadline=None,
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
