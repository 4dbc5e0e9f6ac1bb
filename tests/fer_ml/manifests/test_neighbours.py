"""The most similar codes: against sorting all, in cells and without them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.manifests import neighbours
from fer_ml.manifests.likeness import CODE_LENGTH, CODE_SIZE, mirror_signs
from fer_ml.manifests.neighbours import NEAREST, Neighbours, Search


def made_codes(rng: np.random.Generator, count: int, crowds: int = 40) -> np.ndarray:
    """Codes ``[count, 64]`` around ``crowds`` directions, of the length that codes have."""
    around = rng.normal(size=(crowds, CODE_SIZE))[rng.integers(0, crowds, count)]
    wide = around + 0.7 * rng.normal(size=(count, CODE_SIZE))
    wide *= CODE_LENGTH / np.linalg.norm(wide, axis=1, keepdims=True)
    return np.clip(np.rint(wide), -127, 127).astype(np.int8)


def found(
    codes: np.ndarray, content: np.ndarray, search: Search, rows: np.ndarray, workers: int = 1
) -> set[tuple[int, int]]:
    index = Neighbours(codes, rows, content, workers=workers)
    pairs = [index.of_task(task, search) for task in index.tasks]
    every = [(first, second) for some in pairs for first, second in some.tolist()]
    assert len(every) == len(set(every))
    return set(every)


def sorted_out(
    codes: np.ndarray, content: np.ndarray, search: Search, rows: np.ndarray
) -> set[tuple[int, int]]:
    """The same by sorting all others of each row."""
    pairs = set()
    for row in rows[search.asked[rows]].tolist():
        for mirrored, signs in enumerate((1, mirror_signs().astype(int))):
            alike = (codes.astype(int) @ (codes[row].astype(int) * signs)).tolist()
            others = sorted(
                (-alike[j] - (int(content[j]) >> 55) / 512, int(content[j]), j)
                for j in rows.tolist()
                if search.group[j] != search.group[row] and alike[j] >= search.least
            )
            pairs |= {(j, row + mirrored * len(codes)) for *_, j in others[:NEAREST]}
    return pairs


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 150),
    st.sampled_from([0.0, 0.3, 0.64, 0.95]),
    st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=60)
def test_those_that_sorting_finds(seed: int, count: int, least: float, groups: int) -> None:
    """Equal codes, faces that are not asked, groups of many faces; cells that are all probed."""
    rng = np.random.default_rng(seed)
    codes = made_codes(rng, count, 5)
    codes[rng.random(count) < 0.3] = made_codes(rng, 1)
    content = rng.integers(0, 2**64, count, np.uint64)
    search = Search(rng.random(count) < 0.8, rng.integers(0, groups, count), least * CODE_LENGTH**2)
    rows = np.flatnonzero(rng.random(count) < 0.9)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_CELL": 8,
            "_ROWS": 20,
            "_WAITING": 50,
            "_ASKING": 7,
            "_MEETING": 5,
        }.items():
            patch.setattr(neighbours, name, value)
        assert found(codes, content, search, rows) == sorted_out(codes, content, search, rows)


def test_most_are_found_in_few_cells_whatever_the_order_and_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"_CELL": 16, "_PROBED": 8, "_NEAR": 24}.items():
        monkeypatch.setattr(neighbours, name, value)
    rng = np.random.default_rng(0)
    codes, count = made_codes(rng, 2000, 100), 2000
    content = rng.integers(0, 2**64, count, np.uint64)
    search = Search(np.ones(count, bool), np.arange(count), 0.5 * CODE_LENGTH**2)
    pairs = found(codes, content, search, np.arange(count))
    every = sorted_out(codes, content, search, np.arange(count))
    assert len(pairs & every) > 0.9 * len(every)
    assert pairs == found(codes, content, search, np.arange(count), workers=3)

    order = rng.permutation(count)
    moved = found(codes[order], content[order], search, np.arange(count))
    back = {(order[a], order[b % count] + b // count * count) for a, b in moved}
    assert back == pairs


def test_a_crowd_of_equal_codes_hides_no_other_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last faces are in no list, but have lists themselves."""
    for name, value in {"_CELL": 16, "_LARGEST": 2}.items():
        monkeypatch.setattr(neighbours, name, value)
    rng = np.random.default_rng(1)
    codes = np.concatenate((made_codes(rng, 60), np.repeat(made_codes(rng, 1), 2000, 0)))
    count = len(codes)
    content = rng.integers(0, 2**64, count, np.uint64)
    search = Search(np.ones(count, bool), np.arange(count), 0.64 * CODE_LENGTH**2)
    plain = {pair for pair in found(codes, content, search, np.arange(count)) if pair[1] < count}
    crowd = np.arange(60, count)
    assert {asked for _, asked in plain} >= set(crowd.tolist())
    assert all(sum(asked == row for _, asked in plain) == NEAREST for row in (60, 61, count - 1))
    others = Search(search.asked[:60], search.group[:60], search.least)
    lone = sorted_out(codes[:60], content[:60], others, np.arange(60))
    like_the_crowd = codes[:60].astype(int) @ codes[60] >= search.least
    expected = {pair for pair in lone if pair[1] < 60 and not like_the_crowd[pair[1]]}
    assert len(expected) > 20
    assert expected <= plain | {(b, a) for a, b in plain}
