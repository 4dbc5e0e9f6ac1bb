"""Splits belong to groups: whatever publishers say, no face is in two of them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fer_ml.base import buckets
from fer_ml.base.labels import CLASSES
from fer_ml.manifests import groups, schema
from fer_ml.manifests import unify as unify_module
from fer_ml.manifests.cleaning import THUMBS_FILE, clean_report
from fer_ml.manifests.groups import bytes_of, join_groups
from fer_ml.manifests.leakage import Leakage, twin_pairs
from fer_ml.manifests.schema import SCHEMA, read_manifest, write_manifest
from fer_ml.manifests.unify import publisher_splits, unify
from fer_ml.recipes.profile import Draw, Near, Split
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store
from tests.fer_ml.manifests import whole
from tests.refusals import refused

DRAW = Draw(val=0.25, calib=0.4, test=0.25)
COLUMNS = {
    "row": pl.Int64(),
    "source": pl.String(),
    "label": pl.String(),
    "group_id": pl.String(),
    "sample_id": pl.String(),
    "split": pl.String(),
    "twin_in": pl.String(),
}
# Written out, so that a changed order in the code shows here.
PRECEDENCE = ("test", "calib", "val", "train")
WORDS = (*PRECEDENCE, "unassigned")


def group_id(name: str) -> str:
    """A name as 32 hexadecimal digits."""
    return name.encode().hex().ljust(32, "0")


def name_of(group: str) -> str:
    return bytes.fromhex(group).rstrip(b"\0").decode()


def frame(*rows: tuple[str, str, str, str]) -> pl.DataFrame:
    """Rows of (source, label, group, split); the sample is the group."""
    return pl.DataFrame(
        [
            (i, s, label, group_id(g), group_id(g), split, None)
            for i, (s, label, g, split) in enumerate(rows)
        ],
        schema=COLUMNS,
        orient="row",
    )


@st.composite
def manifests(draw: st.DrawFn, *, plain_groups: bool = False) -> pl.DataFrame:
    """Up to 40 rows of few groups. ``plain_groups``: a group has one source and one label."""
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from(CLASSES[:3]),
                st.integers(0, 15),
                st.sampled_from(WORDS),
            ),
            max_size=40,
            min_size=1,
        )
    )
    if plain_groups:
        drawn = [("abc"[g % 3], CLASSES[g % 2], g, split) for _, _, g, split in drawn]
    return frame(*((s, label, f"g{g}", split) for s, label, g, split in drawn))


def splits_of(kept: pl.DataFrame) -> dict[str, str]:
    return {name_of(g): split for g, split in kept.select("group_id", "split").iter_rows()}


@given(manifests())
@settings(max_examples=80)
def test_no_group_in_two_splits_and_no_row_lost(rows: pl.DataFrame) -> None:
    kept, leaking = whole.place(rows, DRAW, 1)
    assert sorted([*kept["row"], *leaking["row"]]) == list(range(rows.height))
    assert (kept.group_by("group_id").agg(pl.col("split").n_unique())["split"] == 1).all()
    assert set(kept["split"]) <= set(PRECEDENCE)
    assert set(kept["group_id"]) == set(rows["group_id"]), "a group never vanishes"
    assert set(kept.columns) == set(rows.columns)


@given(manifests())
@settings(max_examples=80)
def test_precedence_decides_and_each_leak_names_its_twin(rows: pl.DataFrame) -> None:
    kept, leaking = whole.place(rows, DRAW, 1)
    placed = defaultdict(set)
    for group, split in rows.select("group_id", "split").iter_rows():
        placed[name_of(group)].add(split)
    home = {g: next(w for w in WORDS if w in splits) for g, splits in placed.items()}
    final = splits_of(kept)
    for group, split in home.items():
        if split in ("test", "calib"):
            assert final[group] == split
        elif split == "val":
            assert final[group] in ("val", "calib")
        elif split == "train":
            assert final[group] in ("train", "val", "calib")
    for row, group, split, twin in leaking.select("row", "group_id", "split", "twin").iter_rows():
        assert rows["split"][row] == split, "a leaking row shows what the publisher said"
        assert twin == home[name_of(group)]
        assert split not in (twin, "unassigned")


@given(manifests(plain_groups=True), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_order_of_rows_does_not_matter(rows: pl.DataFrame, random) -> None:
    order = list(range(rows.height))
    random.shuffle(order)
    kept, leaking = whole.place(rows, DRAW, 1)
    kept_2, leaking_2 = whole.place(rows[order], DRAW, 1)
    assert splits_of(kept) == splits_of(kept_2)
    assert set(leaking["row"]) == set(leaking_2["row"])


@given(manifests(), st.integers(0, 3))
@settings(max_examples=150)
def test_the_draws_are_those_of_all_groups_sorted(rows: pl.DataFrame, seed: int) -> None:
    for found, wanted in zip(
        whole.place(rows, DRAW, seed), whole.assign_splits(rows, DRAW, seed), strict=True
    ):
        assert_frame_equal(found, wanted)


def test_many_groups_are_drawn_as_if_they_were_sorted() -> None:
    """So many that a draw ends in the middle of a bin, with two groups of one rank there."""
    rng = np.random.default_rng(0)
    ids = [rng.bytes(16).hex() for _ in range(60_000)]
    ids += [name[:16] + "f" * 16 for name in ids[:20_000]]
    rows = pl.DataFrame(
        {
            "row": range(len(ids)),
            "source": rng.choice(["a", "b"], len(ids)),
            "label": rng.choice(CLASSES[:2], len(ids)),
            "group_id": ids,
            "sample_id": ids,
            "split": rng.choice(["train", "unassigned"], len(ids)),
            "twin_in": [None] * len(ids),
        },
        schema=COLUMNS,
    )
    for found, wanted in zip(
        whole.place(rows, Draw(), 5), whole.assign_splits(rows, Draw(), 5), strict=True
    ):
        assert_frame_equal(found, wanted)


def many(split: str, n: int = 200, source: str = "a") -> pl.DataFrame:
    return frame(*((source, CLASSES[i % 2], f"{source}{i}", split) for i in range(n)))


def test_the_seed_decides_and_nothing_else() -> None:
    rows = many("unassigned")
    one, again, other = (splits_of(whole.place(rows, DRAW, seed)[0]) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_unassigned_rows_are_drawn_by_class_in_the_stated_shares() -> None:
    """200 groups of 2 classes: 25% test, 25% of the rest val, 40% of that calib, in each class."""
    kept, leaking = whole.place(many("unassigned"), DRAW, 1)
    assert leaking.is_empty()
    counts = Counter(kept.select("label", "split").iter_rows())
    for label in CLASSES[:2]:
        drawn = {split: counts[label, split] for split in PRECEDENCE}
        assert drawn["test"] == 25
        assert drawn["val"] + drawn["calib"] == 19  # round(0.25 * 75)
        assert drawn["calib"] == 8  # round(0.4 * 19)


def test_calib_is_cut_from_val_and_train_is_left_alone() -> None:
    train = ("a", "Happy", "t", "train")
    kept, _ = whole.place(pl.concat([many("val", 100), frame(train)]), DRAW, 1)
    assert splits_of(kept)["t"] == "train"
    assert kept.filter(pl.col("split") == "calib").height == 40
    assert kept.filter(pl.col("split") == "val").height == 60


def test_a_source_with_a_val_part_gives_no_more_and_one_without_does() -> None:
    rows = pl.concat([many("train", 40, "a"), many("val", 4, "b"), many("train", 40, "b")[4:]])
    kept, _ = whole.place(rows, DRAW, 1)
    moved = {
        source: kept.filter(
            (pl.col("source") == source) & pl.col("split").is_in(["val", "calib"])
        ).height
        for source in "ab"
    }
    assert moved == {"a": 10, "b": 4}


def test_small_classes_are_never_absent_from_a_drawn_split() -> None:
    rows = frame(*(("a", "Fear", f"g{i}", "unassigned") for i in range(8)))
    kept, _ = whole.place(rows, Draw(val=0.01, calib=0.4, test=0.01), 1)
    assert {"train", "test", "val"} <= set(kept["split"])


@pytest.mark.parametrize("seed", range(20))
def test_a_class_that_is_rare_in_one_of_two_labellings_is_in_each_split(seed: int) -> None:
    """Two sources of the same faces, of whose labels those of the second are rarer."""
    rows = [
        row
        for i in range(400)
        for row in (
            ("a", "Happy" if i % 2 else "Sad", f"g{i}", "train"),
            ("b", "Disgust" if i < 24 else "Happy", f"g{i}", "train"),
        )
    ]
    kept, leaking = whole.place(frame(*rows), DRAW, seed)
    assert leaking.is_empty()
    rare = kept.filter(pl.col("label") == "Disgust")
    assert Counter(rare["split"]) == {"train": 18, "val": 4, "calib": 2}


def test_an_unassigned_row_joins_its_group() -> None:
    rows = frame(
        ("a", "Happy", "g", "test"), ("b", "Happy", "g", "unassigned"), ("c", "Sad", "g", "train")
    )
    kept, leaking = whole.place(rows, DRAW, 1)
    assert kept["split"].to_list() == ["test", "test"]
    assert kept["row"].to_list() == [0, 1]
    assert leaking.select("row", "split", "twin").rows() == [(2, "train", "test")]


def numbers(texts: pl.Series, known: Sequence[str]) -> np.ndarray:
    return np.array([list(known).index(text) for text in texts])


def test_twins_by_hand() -> None:
    rows = frame(
        ("a", "Happy", "g1", "test"),
        ("a", "Happy", "g2", "test"),
        ("a", "Happy", "g2", "test"),
        ("a", "Happy", "g1", "train"),
        ("b", "Happy", "g2", "train"),
        ("b", "Happy", "g3", "test"),
        ("b", "Happy", "g4", "val"),
        ("b", "Happy", "g4", "train"),
    )
    kept, leaking = whole.place(rows, DRAW, 1)
    assert leaking["row"].to_list() == [3, 4, 7]
    assert kept["twin_in"].to_list() == ["train", "train", "train", None, "train"]
    leakage = Leakage(["a", "b"])
    in_test, has_twin = (
        kept.select(expr).to_series().to_numpy()
        for expr in (pl.col("split") == "test", pl.col("twin_in").is_not_null())
    )
    leakage.count_twins(numbers(kept["source"], "ab"), in_test, has_twin)
    assert leakage.document()["test_twins"] == {
        "a": {"test_rows": 3, "with_twin": 3, "share": 1.0},
        "b": {"test_rows": 1, "with_twin": 0, "share": 0.0},
    }


def test_a_twin_of_the_same_pixels_comes_first_and_else_the_first_of_the_group() -> None:
    rows = frame(
        ("a", "Happy", "g1", "test"),
        ("a", "Happy", "g1", "train"),
        ("a", "Happy", "g1", "train"),
        ("b", "Happy", "g1", "unassigned"),
        ("b", "Sad", "g2", "train"),
    )
    samples = [group_id(name) for name in ("s1", "s2", "s1", "s3", "s4")]
    rows = rows.with_columns(pl.Series("sample_id", samples))
    kept, leaking = whole.place(rows, DRAW, 1)
    pairs = twin_pairs(rows, kept, leaking)
    assert pairs.rows() == [(0, 2, True), (1, 0, False), (2, 0, True), (3, 1, False)]
    leakage = Leakage(["a", "b"])
    leakage.count_twins(np.array([0, 1, 1]), np.ones(3, bool), np.ones(3, bool))
    leakage.count_kinds(np.array([0, 1]), pl.Series(["mirrored", "mirrored"]))
    found = leakage.document()["test_twins_by_kind"]
    assert found == {"a": {"mirrored": 1}, "b": {"mirrored": 1}}


def test_overlaps_by_hand() -> None:
    rows = frame(
        ("a", "Happy", "g1", "train"),
        ("a", "Happy", "g1", "train"),
        ("a", "Sad", "g2", "train"),
        ("a", "Sad", "g3", "train"),
        ("b", "Happy", "g1", "train"),
        ("b", "Fear", "g2", "train"),
        ("c", "Fear", "g9", "train"),
    )
    leakage = Leakage(["a", "b", "c"])
    source, label = numbers(rows["source"], "abc"), numbers(rows["label"], CLASSES)
    leakage.count_overlaps(bytes_of(rows["sample_id"]), source, label)
    assert leakage.document()["overlaps"] == [
        {"a": "a", "b": "b", "samples": 2, "same_label": 1, "share_of_smaller": 1.0}
    ]


def test_the_profile_renames_publisher_splits_of_its_source_only() -> None:
    meanings: dict[str, dict[str, Split]] = {"a": {"val": "test"}, "b": {}}
    rows = frame(
        ("b", "Sad", "g0", "val"), ("a", "Sad", "g1", "val"), ("a", "Sad", "g2", "unassigned")
    )
    found = publisher_splits(rows, meanings).select("source", "split").rows()
    assert found == [("b", "val"), ("a", "test"), ("a", "unassigned")]
    with refused("source-without-rows") as caught:
        publisher_splits(rows.filter(pl.col("source") == "a"), meanings)
    assert "source b" in caught.value.what


def test_a_meaning_of_a_split_that_no_row_has_is_refused() -> None:
    rows = frame(("a", "Sad", "g1", "train"), ("a", "Sad", "g2", "test"))
    with refused("unused-split") as caught:
        publisher_splits(rows, {"a": {"val": "test"}})
    assert "splits.val" in caught.value.what
    assert caught.value.allowed == "test, train"


SOURCES = ("a", "b", "c")
MEANINGS: dict[str, dict[str, Split]] = {"a": {"val": "calib"}, "b": {}, "c": {}}


def source_rows(seed: int, count: int) -> pl.DataFrame:
    """Rows of three sources: photos with several faces, faces in two sources, odd texts."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 60, count)
    hashes = [hashlib.md5(f"{seed} {i}".encode()).hexdigest() for i in range(61)]
    return pl.DataFrame(
        {
            "image_path": [f"{i}.png" for i in range(count)],
            "label": rng.choice(CLASSES[:4], count),
            "split": rng.choice(["train", "train", "train", "val", "test", "unassigned"], count),
            "source": np.sort(rng.choice(SOURCES, count)),
            "orig_image": [f'o"{i},\u200b' if i % 5 == 0 else f"o{i}" for i in range(count)],
            "sample_id": [hashes[i] for i in place],
            "group_id": [hashes[i // 3 * 3] for i in place],
            "brightness": rng.uniform(0, 255, count),
            "age": ["20-29" if i % 3 else None for i in range(count)],
        }
    ).select(
        pl.col(name).cast(dtype) if name in KNOWN else pl.lit(None, dtype).alias(name)
        for name, dtype in SCHEMA.items()
    )


KNOWN = (
    *("image_path", "label", "split", "source", "orig_image", "sample_id", "group_id"),
    *("brightness", "age"),
)


def near_pairs(rows: pl.DataFrame) -> pl.DataFrame:
    """Of the sorted samples, every fourth is near-identical to the one before."""
    ids = rows["sample_id"].unique().sort()
    near = [ids[i - 1] if i % 4 == 3 else ids[i] for i in range(len(ids))]
    return pl.DataFrame({"sample_id": ids, "near": near})


def unified(rows: pl.DataFrame, folder: Path) -> Artifact:
    store = Store(folder, "p")
    thumbs = np.random.default_rng(0).integers(0, 255, (rows.height, 576), np.uint8)
    start = 0
    for (source,), part in rows.group_by("source", maintain_order=True):
        with store.begin(f"manifest/{source}") as run:
            write_manifest(part, run.path(f"{source}.csv"))
            np.save(run.path(THUMBS_FILE), thumbs[start : start + part.height])
            run.write_json("clean_report.json", clean_report([{"source": source}], {}))
        start += part.height
    store.near_cache.mkdir(parents=True)
    groups._remember(near_pairs(rows), store.near_cache, Near())
    inputs = {f"manifest/{name}": store.current(f"manifest/{name}") for name in SOURCES}
    job: Job[Any] = Job("classification_manifest", None, store, None, inputs, {})  # type: ignore[arg-type]
    with store.begin("classification_manifest") as run:
        unify(run, job, MEANINGS, Near(), DRAW, 3)
    assert not list(store.scratch.iterdir()), "scratch files are gone"
    made = store.current("classification_manifest")
    assert made is not None
    return made


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("at_once", [7, 1 << 20])
def test_unifying_by_part_gives_what_all_rows_at_once_give(
    seed: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        *((buckets, "ROWS_A_BUCKET"), (buckets, "_HELD_BYTES"), (groups, "ROWS_A_BUCKET")),
        *((unify_module, "_AT_ONCE"), (schema, "_PART_BYTES")),
    ):
        monkeypatch.setattr(module, name, at_once * (100 if "BYTES" in name else 1))
    rows = source_rows(seed, 400)
    artifact = unified(rows, tmp_path)
    frame = rows.with_columns(
        pl.int_range(pl.len()).alias("row"),
        pl.col("group_id").alias("photo"),
        join_groups(
            rows["group_id"],
            rows.join(near_pairs(rows), on="sample_id", maintain_order="left")["near"],
        ).alias("group_id"),
    )
    frame = publisher_splits(frame, MEANINGS)
    kept, leaking = whole.assign_splits(frame, DRAW, 3)
    written = read_manifest(artifact.file("classification_manifest.csv"))
    assert_frame_equal(written, kept.select(list(SCHEMA)))
    assert_frame_equal(
        pl.read_parquet(artifact.file("classification_manifest.parquet")),
        kept.select(name for name in SCHEMA if name not in ("sex", "ethnicity")),
    )
    found = artifact.read_json("leakage.json")
    assert found["test_twins"] == whole.twin_counts(kept)
    assert found["overlaps"] == whole.overlaps(kept)
    assert found["groups"] == whole.group_counts(frame)
    kinds = found["test_twins_by_kind"]
    counted = {source: counts["with_twin"] for source, counts in found["test_twins"].items()}
    assert {source: sum(kinds[source].values()) for source in counted} == counted
    notes = pl.read_csv(artifact.file("quarantine.csv"))
    assert notes["detail"].str.replace(": .*", "").to_list() == [
        f"{split} row with a twin in {twin}"
        for split, twin in leaking.select("split", "twin").iter_rows()
    ]
    same = {row for row, _, same in twin_pairs(frame, kept, leaking).iter_rows() if same}
    told = notes["detail"].str.ends_with("identical pixels")
    assert told.to_list() == [row in same for row in leaking["row"]]
