"""A table that does not belong to a dataset is seen by all of its rows together."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_ml.base.labels import CLASSES
from fer_ml.manifests.fitting import count_labels, misfits, what_fits
from fer_ml.sources import adapters, get_adapter
from tests.refusals import refused

PIXELS = " ".join(["7"] * 2304)
WORDS = [name.lower() for name in CLASSES]
WRITE: dict[str, Callable[[Path, Sequence[str]], None]] = {}


def _writes(*names: str) -> Callable[[Callable[[Path, Sequence[str]], None]], None]:
    def known(function: Callable[[Path, Sequence[str]], None]) -> None:
        WRITE.update(dict.fromkeys(names, function))

    return known


@_writes("rafdb_basic", "rafdb_compound")
def _rafdb(root: Path, labels: Sequence[str]) -> None:
    (root / "Image/aligned").mkdir(parents=True, exist_ok=True)
    (root / "EmoLabel").mkdir(exist_ok=True)
    lines = [f"{('train', 'test')[n % 2]}_{n}.jpg {label}\n" for n, label in enumerate(labels)]
    (root / "EmoLabel/list_patition_label.txt").write_text("".join(lines))


@_writes("fer2013_csv")
def _fer2013(root: Path, labels: Sequence[str]) -> None:
    lines = [f"{label},{PIXELS},Training\n" for label in labels]
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "".join(lines))


@_writes("expw")
def _expw(root: Path, labels: Sequence[str]) -> None:
    (root / "origin").mkdir(exist_ok=True)
    lines = [f"{n}.jpg 0 1 2 30 40 62.5 {label}\n" for n, label in enumerate(labels)]
    (root / "label.lst").write_text("".join(lines))


@_writes("csv_manifest")
def _csv(root: Path, labels: Sequence[str]) -> None:
    lines = [f"{n}.png,{label}\n" for n, label in enumerate(labels)]
    (root / "manifest.csv").write_text("file,label\n" + "".join(lines), encoding="utf-8")


@_writes("class_folders")
def _folders(root: Path, labels: Sequence[str]) -> None:
    for n, label in enumerate(labels):
        (root / label).mkdir(exist_ok=True)
        (root / label / f"{n}.png").touch()


def found(
    adapter: str, root: Path, labels: Sequence[str], own: dict[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """What says that the source is another one, and the adapters that it is for."""
    WRITE[adapter](root, labels)
    reader = get_adapter(adapter)
    listing = reader.listing(root, own)
    counted = count_labels(listing, reader.table(own))
    rules = listing["fault"].drop_nulls().str.split(": ").list.first().value_counts()
    return (
        misfits(counted, dict(rules.iter_rows()), listing.height),
        what_fits(reader, reader.table(own), root, counted)["adapters"],
    )


def ids(first: int, last: int, times: int = 3) -> list[str]:
    return [str(number) for number in range(first, last + 1)] * times


@pytest.mark.parametrize(
    ("adapter", "labels", "named", "others"),
    [
        ("rafdb_basic", ids(1, 11), ["8", "9", "10", "11"], ["rafdb_compound"]),
        ("rafdb_compound", ids(1, 7), ["8", "9", "10", "11"], ["rafdb_basic"]),
        ("rafdb_basic", ids(0, 6), ["0", "7"], []),
        ("rafdb_basic", ids(1, 6), ["7"], []),
        ("fer2013_csv", ids(0, 7), ["7"], []),
        ("fer2013_csv", ids(0, 7, times=1), ["7"], []),
        ("fer2013_csv", ids(1, 7), ["0", "7"], []),
        ("fer2013_csv", ids(1, 6), ["0"], []),
        ("fer2013_csv", ["3.0", "3.0", *ids(0, 6, times=2)], ["3.0"], []),
        ("fer2013_csv", [*ids(0, 6, times=300), *["7"] * 50], ["7"], []),
        ("fer2013_csv", WORDS * 3, WORDS, []),
        ("expw", ids(0, 7), ["7"], []),
        ("csv_manifest", [*WORDS[:6], "glücklich"] * 3, ["glücklich"], []),
        ("csv_manifest", ids(0, 6), ids(0, 6, 1), []),
        ("csv_manifest", [*WORDS, "hapy"] * 9, ["hapy"], []),
        ("class_folders", [*WORDS[:6], "3"] * 3, ["3"], []),
    ],
)
def test_a_table_that_does_not_fit_is_told(
    adapter: str, labels: list[str], named: list[str], others: list[str], tmp_path: Path
) -> None:
    told, fitting = found(adapter, tmp_path, labels)
    assert sorted(line.split("'")[1] for line in told if line.startswith("label ")) == sorted(named)
    assert fitting == others


@pytest.mark.parametrize(
    ("adapter", "labels"),
    [
        ("rafdb_basic", [*ids(1, 7, 4), "9", "9"]),
        ("rafdb_compound", [*ids(1, 11), "12"]),
        ("fer2013_csv", [*ids(0, 6, 300), "7", "8"]),
        ("csv_manifest", [*WORDS, "Contempt", "HAPPINESS"] * 3),
        ("csv_manifest", ["happy", "sad"] * 3),
        ("csv_manifest", [*WORDS * 4, "hapy"]),
        ("class_folders", [*WORDS * 4, "bored"]),
    ],
)
def test_slips_and_words_are_no_misfit(adapter: str, labels: list[str], tmp_path: Path) -> None:
    assert found(adapter, tmp_path, labels) == ([], [])


NUMBERED = [name for name, each in adapters().items() if each.labels and not each.labels.words]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("adapter", ["rafdb_basic", "rafdb_compound", "expw"])
def test_numbers_of_another_table_never_pass(
    adapter: str, tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever a dataset's numbers are: as often as each other, they are the table's or told of."""
    table = get_adapter(adapter).labels
    assert table is not None
    numbers = data.draw(st.sets(st.integers(-1, 13).map(str), min_size=1))
    told, _ = found(adapter, tmp_path, sorted(numbers) * data.draw(st.integers(1, 3)))
    assert (told == []) == (numbers == set(table.meanings))


def test_every_numbered_adapter_is_tried() -> None:
    assert sorted(NUMBERED) == ["expw", "fer2013_csv", "rafdb_basic", "rafdb_compound"]


def test_the_profile_says_what_the_labels_mean(tmp_path: Path) -> None:
    """AffectNet's eight in FER2013's form; one that is named and never occurs is told."""
    own = dict(zip(ids(0, 7, 1), ["Neutral", "Happy", "Sad", "Surprise", "Fear"], strict=False))
    own |= {"5": "Disgust", "6": "Angry", "7": "contempt"}
    assert found("fer2013_csv", tmp_path, ids(0, 7), own) == ([], [])
    listing = get_adapter("fer2013_csv").listing(tmp_path, own)
    assert listing["label"][:7].to_list() == list(own.values())[:7]
    assert listing["excluded"][7] == "contempt"
    told, _ = found("fer2013_csv", tmp_path, ids(0, 6), own)
    assert told == ["label '7' (contempt) is on no row"]


@pytest.mark.parametrize("adapter", ["csv_manifest", "class_folders", "expw", "rafdb_basic"])
def test_own_labels_take_the_place_of_the_table(adapter: str, tmp_path: Path) -> None:
    own = {"0": "Sad", "froh": "Happy", "1": "other label"}
    assert found(adapter, tmp_path, [*own, *own], own) == ([], [])
    listing = get_adapter(adapter).listing(tmp_path, own).sort("native_label")
    means = listing.select(pl.coalesce("label", "excluded")).to_series().to_list()
    assert means == ["Sad", "Sad", "other label", "other label", "Happy", "Happy"]


@pytest.mark.parametrize("adapter", ["ferplus_votes", "rafml_argmax"])
def test_labels_of_votes_are_not_said(adapter: str) -> None:
    with refused("labels-not-allowed") as caught:
        get_adapter(adapter).table({"0": "Sad"})
    assert caught.value.where == f"source adapter {adapter}"


@pytest.mark.parametrize(
    ("line", "rule"),
    [("{}.png,happy,holdout", "unknown split"), ("{}.png,happy", "malformed line")],
)
def test_lines_that_are_not_understood(line: str, rule: str, tmp_path: Path) -> None:
    good = [f"{n}.png,{word},train" for n, word in enumerate(WORDS)]
    reader = get_adapter("csv_manifest")
    for count in (2, 3):
        lines = [line.format(100 + n) for n in range(count)]
        (tmp_path / "manifest.csv").write_text("\n".join(["file,label,split", *good, *lines]))
        listing = reader.listing(tmp_path)
        told = misfits(count_labels(listing, reader.table()), {rule: count}, listing.height)
        assert told == ([f"{rule}: 3 rows"] if count == 3 else [])
