"""Groups: photos and near-identical faces that a split must not tell apart."""

import tempfile
from pathlib import Path

import networkx as nx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.base import buckets
from fer_ml.manifests import groups
from fer_ml.manifests.groups import (
    bytes_of,
    first_rows,
    join_groups,
    near_by_part,
    near_of,
    numbers_of,
)
from fer_ml.recipes.profile import Near
from tests.refusals import refused


def thumb(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, 576, dtype=np.uint8)


FACES = {
    "d": thumb(1),
    "b": thumb(1) + 20,  # d, brighter
    "c": thumb(2),
    "a": thumb(3),
    "e": np.full(576, 90, np.uint8),
    "f": np.full(576, 90, np.uint8),
}


def find(names: list[str | None], cache: Path) -> list[str | None]:
    """A face's id is its letter 32 times."""

    def thumbs(rows: np.ndarray) -> np.ndarray:
        return np.array([FACES[str(names[row])] for row in rows]).reshape(-1, 576)

    ids = pl.Series([name and name * 32 for name in names], dtype=pl.String)
    return near_of(ids, thumbs, cache, Near()).str.head(1).to_list()


def test_near_faces_get_the_least_id_whatever_their_order(tmp_path: Path) -> None:
    assert find(["d", "c", "b", "a"], tmp_path / "x") == ["b", "c", "b", "a"]
    assert find(["a", "b", "d", "c"], tmp_path / "y") == ["a", "b", "b", "c"]


def test_repeated_and_absent_samples(tmp_path: Path) -> None:
    assert find(["d", None, "d", "b"], tmp_path) == ["b", None, "b", "b"]
    assert find([], tmp_path) == []


def test_faces_without_contrast_are_near_to_nothing(tmp_path: Path) -> None:
    assert find(["e", "f"], tmp_path) == ["e", "f"]


def test_a_subset_is_answered_from_memory_and_a_larger_set_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(["d", "c", "b"], tmp_path)
    searched = []
    search = groups._search
    monkeypatch.setattr(groups, "_search", lambda *a: searched.append(a) or search(*a))
    assert find(["c", "d"], tmp_path) == ["c", "b"]
    assert not searched
    assert find(["d", "a"], tmp_path) == ["d", "a"]
    assert len(searched) == 1


@given(st.sets(st.integers(0, 23)), st.sets(st.integers(0, 23)))
@settings(max_examples=40)
def test_a_set_that_grew_gives_what_a_search_over_all_gives(old: set[int], new: set[int]) -> None:
    """Faces in a chain: each is near to the next one, and every third link is missing."""
    chain = [thumb(5).astype(float)]
    for seed in range(23):
        step = np.random.default_rng(seed + 50).normal(0, 9 if seed % 3 else 60, 576)
        chain.append(np.clip(chain[-1] + step, 0, 255))
    faces = {f"{i * 7 % 24:032x}": c.astype(np.uint8) for i, c in enumerate(chain)}

    def near(numbers: set[int], cache: Path) -> list[str]:
        ids = [f"{n:032x}" for n in sorted(numbers)]
        return near_of(
            pl.Series(ids, dtype=pl.String),
            lambda rows: np.array([faces[ids[row]] for row in rows]).reshape(-1, 576),
            cache,
            Near(),
        ).to_list()

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        near(old, Path(one))
        assert near(old | new, Path(one)) == near(old | new, Path(two))


def test_a_damaged_memory_is_searched_again(tmp_path: Path) -> None:
    wanted = find(["d", "b"], tmp_path)
    for file in tmp_path.glob("*.parquet"):
        file.write_bytes(b"damage")
    assert find(["d", "b"], tmp_path) == wanted


@given(st.lists(st.tuples(st.sampled_from("01234567"), st.sampled_from("abcdef")), max_size=20))
@settings(max_examples=100)
def test_groups_are_the_connected_components(rows: list[tuple[str, str]]) -> None:
    """Against networkx: photos and near classes as nodes, rows as edges."""
    graph = nx.Graph([(f"photo {p}", f"near {n}") for p, n in rows])
    wanted = {}
    for component in nx.connected_components(graph):
        photos = sorted(node.split()[1] for node in component if node.startswith("photo"))
        wanted |= dict.fromkeys(photos, photos[0])
    photos, near = (pl.Series([row[i] * 32 for row in rows], dtype=pl.String) for i in (0, 1))
    assert join_groups(photos, near).str.head(1).to_list() == [wanted[p] for p, _ in rows]


@given(st.lists(st.tuples(st.sampled_from("012"), st.sampled_from("012")), max_size=12))
@settings(max_examples=60)
def test_numbers_are_ranks_also_where_half_of_a_hash_is_equal(parts: list[tuple[str, str]]) -> None:
    hashes = [a * 16 + b * 16 for a, b in parts]
    ranks = {text: rank for rank, text in enumerate(sorted(set(hashes)))}
    numbers = numbers_of(pl.Series(hashes, dtype=pl.String))
    assert numbers.tolist() == [ranks[text] for text in hashes]
    assert first_rows(numbers).tolist() == [hashes.index(text) for text in ranks]


@pytest.mark.parametrize("remembered", ["abcdef", "abc", ""])
def test_near_faces_by_part_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: str
) -> None:
    """Whether all are remembered, some, or none; in one bucket and in several; with empty cells."""
    asked: list[str | None] = ["d", None, "a", "b", "b", "f", "c", "e"]
    wanted = find(asked, tmp_path / "whole")
    find(list(remembered), tmp_path / "parts")
    monkeypatch.setattr(buckets, "ROWS_A_BUCKET", 2)
    monkeypatch.setattr(groups, "ROWS_A_BUCKET", 2)
    ids = pl.Series([name and name * 32 for name in asked], dtype=pl.String)

    def thumbs(rows: np.ndarray) -> np.ndarray:
        return np.array([FACES[str(asked[row])] for row in rows]).reshape(-1, 576)

    near = near_by_part(lambda: [ids[:3], ids[3:]], thumbs, tmp_path / "parts", Near())
    found = pl.concat([near(ids[:3]), near(ids[3:])])
    assert found.str.head(1).to_list() == wanted
    assert not list((tmp_path / "parts" / "scratch").glob("*")), "scratch files are gone"


def test_a_row_without_a_hash_is_refused() -> None:
    """The hash of another row must not stand in its place."""
    with refused("missing-hash"):
        bytes_of(pl.Series("group_id", [None, "0" * 32, None]))
