"""Copies of one photo: against trying each pair, and on altered pictures."""

import importlib.util
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fer_ml.base.labels import CLASSES
from fer_ml.images.inspection import thumb
from fer_ml.manifests import near, neighbours
from fer_ml.manifests.likeness import CODE_LENGTH, codes, mirror_signs
from fer_ml.manifests.near import KINDS, NearGroups, flipped, kinds, near_groups
from fer_ml.manifests.neighbours import NEAREST
from fer_ml.recipes.profile import DRAWN_NEAR, Near
from fer_ml.sample.pictures import draw_face
from fer_ml.sample.styles import STYLES, random_camera, random_face, random_weights
from tests.refusals import refused

Rng = np.random.Generator
Grey = np.ndarray

_SPEC = importlib.util.spec_from_file_location(
    "alterations", Path(__file__).resolve().parents[3] / "benchmarks/alterations.py"
)
assert _SPEC is not None and _SPEC.loader is not None
alterations = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(alterations)


def components(edges: np.ndarray, count: int) -> np.ndarray:
    """First row of each row's component, by repeated minima over ``edges [M, 2]``."""
    first = np.arange(count)
    while True:
        least = first.copy()
        np.minimum.at(least, edges[:, 0], first[edges[:, 1]])
        np.minimum.at(least, edges[:, 1], first[edges[:, 0]])
        if (least == first).all():
            return first
        first = least


def nearest(digest: near._Digest, group: np.ndarray, row: int) -> list[tuple[int, int]]:
    """Rows (and whether mirrored) whose neighbour in another group this row is, by sorting all."""
    held = digest.codes.astype(int)
    found = []
    for mirrored, code in enumerate((held[row], held[row] * mirror_signs())):
        alike = held @ code
        others = [
            (-512 * int(alike[j]) - (int(digest.hash[j]) >> 55), int(digest.hash[j]), j)
            for j in range(len(held))
            if group[j] != group[row] and alike[j] >= digest.rule.code * CODE_LENGTH**2
        ]
        found += [(j, row + mirrored * len(held)) for *_, j in sorted(others)[:NEAREST]]
    return found


def by_trying(thumbs: np.ndarray, rule: Near) -> tuple[np.ndarray, np.ndarray]:
    """Groups and pairs ``[M, 2]``: every row with its nearest ones, tried one by one."""
    digest = near._Digest(thumbs, rule)
    for start in range(0, len(thumbs), near._ROWS):
        digest.read(start)
    count, first = len(thumbs), np.arange(len(thumbs))
    alone = ~digest.flat
    equal = [(i, j) for i in range(count) for j in range(i) if (thumbs[i] == thumbs[j]).all()]
    edges = [(j, i) for i, j in equal if alone[i]]
    alone[[i for i, _ in equal]] = False
    asked, kept = alone, np.flatnonzero(alone)
    first = components(np.array(edges, int).reshape(-1, 2), count)
    # A face is not its own neighbour, and twins of a row stand for it.
    digest.codes[~alone] = 0
    for _ in range(near.ROUNDS):
        pairs = [pair for row in np.flatnonzero(asked) for pair in nearest(digest, first, row)]
        if not pairs:
            break
        numbers = np.unique(near.numbered(np.array(pairs), digest.hash))
        some = np.stack(np.divmod(numbers, 2 * count), 1)
        edges += [tuple(pair) for pair in some[digest.likeness(some) > 0] % count]
        before, first = first, components(np.array(edges, int).reshape(-1, 2), count)
        size, was = (np.bincount(each[kept], minlength=count) for each in (first, before))
        asked = alone & (size[first] > NEAREST) & (was[before] < size[first])
    return first, np.array(edges, int).reshape(-1, 2)


def check(thumbs: np.ndarray, rule: Near | None = None) -> NearGroups:
    """Search, compare with trying each pair, and return what was found."""
    found = near_groups(thumbs, rule=rule)
    first, pairs = by_trying(thumbs, rule or Near())
    assert_array_equal(found.first, first)
    assert_array_equal(found.flat, thumbs.astype(float).std(1) < 2)
    i, j = found.pairs.T
    assert (i < j).all()
    assert found.pairs.tolist() == sorted(found.pairs.tolist())
    assert {tuple(sorted(pair)) for pair in pairs.tolist()} >= set(map(tuple, found.pairs.tolist()))
    assert ((found.likeness > 0) & (found.likeness <= 1 + 1e-12)).all()
    assert_array_equal(components(found.pairs, len(found.first)), found.first)
    assert len(found.pairs) == len(found.first) - len(np.unique(found.first))
    return found


def picture(rng: Rng, slope: float = 1.2) -> Grey:
    """``[48, 48]`` with detail of every size, as photos have: noise by its frequency."""
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    noise = np.fft.fft2(rng.normal(size=(96, 96))) / np.maximum(waves, 1 / 60) ** slope
    grey = np.fft.ifft2(noise).real[:48, :48]
    grey = 128 + 45 * (grey - grey.mean()) / grey.std()
    return np.asarray(np.clip(grey, 0, 255).astype(np.uint8))


def small(faces: Iterable[Grey]) -> np.ndarray:
    """Thumbs ``[N, 576]``."""
    return np.array([thumb(face).reshape(-1) for face in faces]).reshape(-1, 576)


def smooth(rng: Rng, count: int) -> np.ndarray:
    """``[count, 576]`` like faces in that a few low waves make up most of them."""
    coarse = rng.normal(0, 1, (count, 6, 6)) * [3, 2, 1, 1, 0.5, 0.5]
    fine = [cv2.resize(c, (24, 24), interpolation=cv2.INTER_CUBIC) for c in coarse]
    grey = np.reshape(fine, (count, 576)) + rng.normal(0, 0.3, (count, 576))
    return np.clip(128 + 30 * grey, 0, 255).astype(np.uint8)


def jitter(rng: Rng, thumbs: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(thumbs + rng.normal(0, sigma, thumbs.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(5)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows go through all that many rows do: cells, tasks, batches."""
    small = {"_ROWS": 64, "_TASK": 60, "_PAIRS": 16, "_TRIED": 20, "_VIEWED": 3}
    for name, value in small.items():
        monkeypatch.setattr(near, name, value)
    for name, value in {"_CELL": 8, "_ROWS": 50, "_WAITING": 30, "_ASKING": 11}.items():
        monkeypatch.setattr(neighbours, name, value)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_rows(count: int, rng: Rng) -> None:
    assert check(smooth(rng, count)).first.tolist() == list(range(count))
    check(np.repeat(smooth(rng, 1), count, 0))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("code", [0.5, 0.64, 0.9])
def test_many_small_cells(rng: Rng, code: float) -> None:
    pictures = [picture(rng) for _ in range(60)]
    copies = [
        alterations.ALTERATIONS[NAMES[i % len(NAMES)]](face, rng) for i, face in enumerate(pictures)
    ]
    crowd = jitter(rng, np.repeat(small(pictures[:2]), 40, 0), 3)
    thumbs = np.concatenate((small(pictures), small(copies), crowd, small(pictures[50:])))
    found = check(thumbs[rng.permutation(len(thumbs))], Near(code=code))
    assert len(found.pairs) > 100


NAMES = list(alterations.ALTERATIONS)


@pytest.mark.usefixtures("small_steps")
def test_noise_is_alike_in_its_codes_alone(rng: Rng) -> None:
    thumbs = rng.integers(0, 256, (60, 576), dtype=np.uint8)
    found = check(np.concatenate((thumbs, jitter(rng, thumbs[:20], 4))))
    assert (found.first == np.arange(80)).sum() == 60


def test_a_crowd_of_near_equal_faces_gives_few_pairs(rng: Rng) -> None:
    crowd = jitter(rng, np.repeat(small([picture(rng)]), 3000, 0), 2)
    found = near_groups(np.concatenate((small(picture(rng) for _ in range(50)), crowd)))
    assert len(found.pairs) == 2999


def test_equal_rows(rng: Rng) -> None:
    thumbs = small(picture(rng) for _ in range(20))
    rows = rng.integers(0, 20, 100)
    found = check(thumbs[rows])
    assert (found.likeness == 1).all()
    assert len(found.pairs) == 100 - len(np.unique(rows))


def test_equal_hashes_of_other_rows(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    read = near._Digest.read

    def without_hash(digest: near._Digest, start: int) -> None:
        read(digest, start)
        digest.hash[:] = 0

    monkeypatch.setattr(near._Digest, "read", without_hash)
    thumbs = small(picture(rng) for _ in range(20))
    check(thumbs[rng.integers(0, 20, 60)])


def test_flat_rows_are_alone(rng: Rng) -> None:
    step = np.where(np.arange(576) < 288, 100, 103)  # deviation 1.5
    contrast = np.where(np.arange(576) < 288, 100, 104)  # deviation 2: not flat
    rows = [np.full(576, 0), np.full(576, 0), np.full(576, 255), step, step, contrast, contrast]
    found = check(np.concatenate((np.array(rows, np.uint8), smooth(rng, 3))))
    assert found.flat.tolist() == [True] * 5 + [False] * 5
    assert found.first.tolist() == [0, 1, 2, 3, 4, 5, 5, 7, 8, 9]


@given(st.integers(0, 2**32 - 1), st.sampled_from(list(alterations.SINGLE)))
@settings(max_examples=120)
def test_any_alteration_of_any_picture_is_found_and_another_picture_is_not(
    seed: int, name: str
) -> None:
    rng = np.random.default_rng(seed)
    face, other = picture(rng), picture(rng)
    copy = alterations.SINGLE[name](face, rng)
    assert near_groups(small((face, copy, other))).first.tolist() == [0, 0, 2]


def test_a_copy_is_of_the_kind_that_it_was_made_by() -> None:
    rng = np.random.default_rng(3)
    face = picture(rng)
    copies = {
        "near-identical": np.clip(face * 0.9 + 5, 0, 255).astype(np.uint8),
        "mirrored": face[:, ::-1],
        "turned": alterations.moved(face, np.zeros(2), 6),
        "another crop": cv2.resize(face[4:46, 1:43], (48, 48)),
        "re-lit": (255 * (face / 255.0) ** 3).astype(np.uint8),
        "": picture(rng),
    }
    first, second = small([face] * len(copies)), small(copies.values())
    assert kinds(first, second, Near()).tolist() == list(copies)
    assert list(copies)[:-1] == list(KINDS)


def test_codes_of_mirrored_faces_have_other_signs_and_no_other_numbers(rng: Rng) -> None:
    thumbs = small(picture(rng) for _ in range(20))
    assert_array_equal(codes(flipped(thumbs)), codes(thumbs) * mirror_signs())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_which_faces_are_copies_does_not_depend_on_what_is_compared_beside_them(seed: int) -> None:
    """Sums in another order, as on another processor, give the same bits."""
    rng = np.random.default_rng(seed)
    faces = [picture(rng, 1.5) for _ in range(5)]
    first = small(faces)
    second = small(alterations.combined(face, rng) for face in faces)
    rule = Near(detail=0.5, view=0.5)
    whole = near.compare(first, second, rule)
    apart = [near.compare(first[[i]], second[[i]], rule) for i in range(5)]
    assert_array_equal(whole.likeness, np.concatenate([each.likeness for each in apart]))
    assert_array_equal(whole.moves, np.concatenate([each.moves for each in apart]))
    assert_array_equal(codes(first), np.concatenate([codes(first[[i]]) for i in range(5)]))


def test_drawn_faces_and_their_copies() -> None:
    rng = np.random.default_rng(1)
    style = STYLES["ferplus"]
    faces = []
    for index in range(60):
        weights = random_weights(rng, CLASSES[index % 7], style)
        drawn = draw_face(random_face(rng, weights, style), random_camera(rng, style), 48)
        faces.append(cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY))
    copies = [alterations.jpeg(face, rng) for face in faces]
    found = check(small(faces + copies), DRAWN_NEAR)
    assert_array_equal(found.first, np.tile(np.arange(60), 2))


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("probed", [4, 32])
def test_order_of_rows_and_number_of_workers_change_nothing(
    rng: Rng, probed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_PROBED", probed)
    pictures = [picture(rng) for _ in range(60)]
    copies = [alterations.combined(face, rng) for face in pictures]
    thumbs = np.concatenate((small(pictures), small(copies), small(pictures[:9])))
    one, three = near_groups(thumbs, workers=1), near_groups(thumbs, workers=3)
    for name in ("first", "pairs", "likeness", "flat"):
        assert_array_equal(getattr(one, name), getattr(three, name))

    order = rng.permutation(len(thumbs))
    moved = near_groups(thumbs[order]).first
    same = one.first[:, None] == one.first
    assert_array_equal(moved[:, None] == moved, same[order][:, order])


def test_a_read_only_map_of_a_file(rng: Rng, tmp_path: Path) -> None:
    thumbs = small(picture(rng) for _ in range(20))
    thumbs = np.concatenate((thumbs, jitter(rng, thumbs, 4)))
    np.save(tmp_path / "thumbs.npy", thumbs)
    mapped = near_groups(np.load(tmp_path / "thumbs.npy", mmap_mode="r"))
    assert_array_equal(mapped.first, near_groups(thumbs).first)
    assert type(mapped.first) is np.ndarray


@st.composite
def few_patterns(draw: st.DrawFn) -> np.ndarray:
    """Rows made of a few patterns with scale, offset and a few changed greys."""
    count = draw(st.integers(0, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    patterns = draw(
        st.lists(st.sampled_from(["smooth", "noise", "flat", "ramp", "spot"]), min_size=1)
    )
    made = {
        "smooth": lambda: smooth(rng, 1)[0],
        "noise": lambda: rng.integers(0, 256, 576),
        "flat": lambda: np.full(576, rng.integers(0, 256)),
        "ramp": lambda: np.arange(576) * 255 // 575,
        "spot": lambda: 200 * (np.arange(576) == rng.integers(0, 576)),
    }
    bases = [np.asarray(made[name](), float) for name in patterns]
    rows = np.zeros((count, 576))
    for row in rows:
        row[:] = bases[rng.integers(len(bases))] * rng.choice([0.02, 0.2, 1]) + rng.integers(0, 60)
        changed = rng.integers(0, 576, rng.choice([0, 1, 20]))
        row[changed] = rng.integers(0, 256, len(changed))
    return np.clip(rows, 0, 255).astype(np.uint8)


@given(few_patterns(), st.sampled_from([0.3, 0.64, 0.9]))
@settings(max_examples=60)
def test_any_thumbs(thumbs: np.ndarray, code: float) -> None:
    check(thumbs, Near(code=code))


@pytest.mark.parametrize(
    "thumbs",
    [np.zeros((2, 24, 24), np.uint8), np.zeros((2, 575), np.uint8), np.zeros((2, 576), np.float32)],
)
def test_other_shapes_and_types_are_refused(thumbs: np.ndarray) -> None:
    with refused("invalid-array", allowed="[N, 576] uint8"):
        near_groups(thumbs)


def test_thumbs_of_larger_faces_are_means_and_of_smaller_ones_are_smooth(rng: Rng) -> None:
    face = rng.integers(0, 256, (48, 72), dtype=np.uint8)
    means = face.reshape(24, 2, 24, 3).mean((1, 3))
    assert_allclose(thumb(face), means, atol=1)
    assert_array_equal(thumb(face[:24, :24]), face[:24, :24])
    ramp = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (12, 1))
    assert (np.diff(thumb(ramp).astype(int), axis=1) >= 0).all()
    assert thumb(np.full((1, 1), 9, np.uint8)).tolist() == [[9] * 24] * 24


@pytest.mark.parametrize(
    "grey",
    [np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48), np.float32), np.zeros((0, 48), np.uint8)],
)
def test_no_thumb_of_what_is_not_a_grey_face(grey: np.ndarray) -> None:
    with refused("invalid-array"):
        thumb(grey)


@pytest.mark.real_data
def test_real_faces() -> None:
    """Altered copies of real faces, and the twins that the published faces have among them."""
    beside = Path(__file__).resolve().parents[4] / "shared/data"
    file = Path(os.environ.get("FER_DATA") or beside) / "ferplus.tar"
    if not file.is_file():
        pytest.skip(f"no real faces: {file} is not there")
    faces = []
    with tarfile.open(file) as tar:
        for member in tar:
            held = tar.extractfile(member) if member.name.endswith(".png") else None
            if held is not None:
                data = np.frombuffer(held.read(), np.uint8)
                faces.append(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    assert len(faces) == 32_137
    alone = near_groups(small(faces)).first
    training = np.unique(alone[:28_558])
    assert np.isin(alone[28_558:], training).sum() == 1008

    # Copies of validation faces and of the training faces that the codes were not fitted on.
    rng = np.random.default_rng(0)
    origins = rng.permutation(np.r_[1:28_558:2, 28_558:32_137])[:2400]
    ways = [NAMES[i % len(NAMES)] for i in range(len(origins))]
    copies = [
        alterations.ALTERATIONS[way](faces[i], rng) for i, way in zip(origins, ways, strict=True)
    ]
    first = near_groups(np.concatenate((small(faces), small(copies)))).first
    found = first[len(faces) :] == first[origins]
    by_way = {way: found[np.array(ways) == way].mean() for way in alterations.ALTERATIONS}
    assert found.mean() >= 0.95
    assert min(by_way[way] for way in alterations.SINGLE) >= 0.95
    # A copy that is taken for another photo's joins groups that were two.
    wrong = len(np.unique(alone)) - len(np.unique(first[: len(faces)]))
    assert found.sum() / (found.sum() + wrong) >= 0.99
