"""Near-identical faces, against comparing each pair."""

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.images.inspection import thumb
from fer_ml.manifests import near
from fer_ml.manifests.near import NearGroups, near_groups
from fer_ml.sample.pictures import draw_face
from fer_ml.sample.styles import STYLES, random_camera, random_face, random_weights

Rng = np.random.Generator


def correlations(thumbs: np.ndarray) -> np.ndarray:
    """``[N, N]``; -1 where a flat row takes part, 1 on the diagonal."""
    grey = thumbs.astype(float)
    flat = grey.std(1) < 2
    grey[flat] = np.arange(576)
    table = np.corrcoef(grey) if len(grey) > 1 else np.ones((len(grey), len(grey)))
    table[flat] = table[:, flat] = -1
    np.fill_diagonal(table, 1)
    return table


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


def check(thumbs: np.ndarray, threshold: float = 0.98) -> NearGroups:
    """Search, compare with all pairs, and return what was found."""
    found = near_groups(thumbs, threshold=threshold)
    table = correlations(thumbs)
    # At the very threshold, both answers are right to a rounding.
    assert not (np.abs(table - threshold) < 1e-12).any() or threshold == 1
    wanted = components(np.argwhere(table >= threshold - 1e-12), len(thumbs))
    assert_array_equal(found.first, wanted)
    check_pairs(found, table, threshold)
    assert_array_equal(found.flat, thumbs.astype(float).std(1) < 2)
    return found


def check_pairs(found: NearGroups, table: np.ndarray, threshold: float) -> None:
    """The pairs are near, sorted, and connect the groups without a loop."""
    i, j = found.pairs.T
    assert (i < j).all()
    assert found.pairs.tolist() == sorted(found.pairs.tolist())
    assert_allclose(found.correlation, table[i, j], atol=1e-12)
    assert (found.correlation >= threshold).all() and (found.correlation <= 1).all()
    assert_array_equal(components(found.pairs, len(found.first)), found.first)
    assert len(found.pairs) == len(found.first) - len(np.unique(found.first))


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
    """Few rows go through all that many rows do: tasks, leaves, batches."""
    small = {"_ROWS": 64, "_TASK": 60, "_LEAF": 7, "_PAIRS": 16, "_SOME": 4, "_PRODUCTS": 3}
    for name, value in {**small, "_BATCH": 50, "_SPARSE": 2}.items():
        monkeypatch.setattr(near, name, value)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_rows(count: int, rng: Rng) -> None:
    assert check(smooth(rng, count)).first.tolist() == list(range(count))
    check(np.repeat(smooth(rng, 1), count, 0))


@pytest.mark.parametrize("sigma", [2, 6, 9])
def test_twins_of_various_likeness_among_others(rng: Rng, sigma: float) -> None:
    thumbs = smooth(rng, 400)
    thumbs = np.concatenate((thumbs, jitter(rng, thumbs[:150], sigma)))
    found = check(thumbs[rng.permutation(len(thumbs))])
    assert len(found.pairs)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.98, 0.999])
def test_many_small_cells(rng: Rng, threshold: float) -> None:
    thumbs = smooth(rng, 300)
    crowd = jitter(rng, np.repeat(thumbs[:3], 60, 0), 3)
    thumbs = np.concatenate((thumbs, crowd, jitter(rng, thumbs[:100], 5), thumbs[50:80]))
    check(thumbs[rng.permutation(len(thumbs))], threshold)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("threshold", [0.9, 0.98])
def test_neighbours_just_near_enough_all_along_arcs(rng: Rng, threshold: float) -> None:
    """Neighbours differ in nothing but the low waves, so that no bound has room to spare."""
    angles = np.arange(30) * np.arccos(threshold) * 0.98
    arcs = []
    for _ in range(12):
        low = rng.normal(0, 1, (2, 3, 3))
        waves = [cv2.resize(w, (24, 24), interpolation=cv2.INTER_CUBIC).reshape(-1) for w in low]
        axes, _ = np.linalg.qr(np.array([np.ones(576), *waves]).T)
        arcs.append(128 + 700 * np.array([np.cos(angles), np.sin(angles)]).T @ axes[:, 1:].T)
    thumbs = np.concatenate(arcs).round()
    assert thumbs.min() >= 0 and thumbs.max() <= 255
    found = check(thumbs.astype(np.uint8)[rng.permutation(len(thumbs))], threshold)
    assert len(np.unique(found.first)) <= 12


@pytest.mark.parametrize("spread", [(1, 0.01, 0.01), (1, 0.6, 0.01), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("sparse", [1, 8])
def test_cells_meet_each_pair_within_reach_once(
    rng: Rng, spread: tuple[float, ...], sparse: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "_SPARSE", sparse)
    points = (rng.uniform(0, 1, (300, 3)) * spread).astype(np.float32)
    ids = rng.permutation(1000)[:300]
    none = np.empty(0)
    cell = near._Cell(
        points=points.T,
        ids=ids,
        core=np.arange(300),
        halo=none.astype(int),
        gap=none.astype(np.float32),
        low=np.full(3, -np.inf, np.float32),
        high=np.full(3, np.inf, np.float32),
    )
    met = np.zeros((1000, 1000), int)
    for leaf in near._cells(cell, 5, 0.2**2):
        core, halo = leaf.ids[leaf.core], leaf.ids[leaf.halo]
        assert 1 <= len(core) <= 5
        met[np.ix_(core, core)] += 1
        met[np.ix_(core, halo)] += 1
        met[np.ix_(halo, core)] += 1
    met = met[np.ix_(ids, ids)]
    distance = np.linalg.norm(points[:, None].astype(float) - points, axis=2)
    assert (met[distance < 0.2 - 1e-6] == 1).all()
    assert met.max() == 1
    assert met.sum() < 0.7 * met.size


def test_of_three_faces_the_two_strongest_pairs_stay(rng: Rng) -> None:
    face = smooth(rng, 1)
    thumbs = np.concatenate((jitter(rng, face, 5), face, jitter(rng, face, 3)))
    found = check(thumbs)
    assert found.pairs.tolist() == [[0, 1], [1, 2]]


@pytest.mark.usefixtures("small_steps")
def test_noise_has_no_low_waves_to_go_by(rng: Rng) -> None:
    thumbs = rng.integers(0, 256, (300, 576), dtype=np.uint8)
    check(np.concatenate((thumbs, jitter(rng, thumbs[:100], 12))))


@pytest.mark.usefixtures("small_steps")
def test_a_chain_is_one_group_though_its_ends_are_far_apart(rng: Rng) -> None:
    start, end = smooth(rng, 2).astype(float)
    chain = np.array([start + (end - start) * t for t in np.linspace(0, 1, 60)]).round()
    table = correlations(chain)
    assert table[0, -1] < 0.9 and table.diagonal(1).min() > 0.98
    found = check(chain.astype(np.uint8)[rng.permutation(60)])
    assert (found.first == 0).all()


def test_a_crowd_of_near_equal_faces_gives_few_pairs(rng: Rng) -> None:
    crowd = jitter(rng, np.repeat(smooth(rng, 1), 1500, 0), 2)
    found = check(np.concatenate((smooth(rng, 200), crowd)))
    assert len(found.pairs) == 1499


@pytest.mark.usefixtures("small_steps")
def test_pairs_of_many_overlapping_tasks_stay_few(rng: Rng) -> None:
    crowd = jitter(rng, np.repeat(smooth(rng, 1), 600, 0), 2)
    assert len(check(crowd).pairs) == 599


def test_equal_rows(rng: Rng) -> None:
    thumbs = smooth(rng, 40)
    rows = rng.integers(0, 40, 300)
    found = check(thumbs[rows])
    assert (found.correlation == 1).all()
    assert len(found.pairs) == 300 - len(np.unique(rows))


def test_equal_hashes_of_other_rows(rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    read = near._Digest.read

    def without_hash(digest: near._Digest, start: int) -> None:
        read(digest, start)
        digest.hash[:] = 0

    monkeypatch.setattr(near._Digest, "read", without_hash)
    thumbs = smooth(rng, 40)
    check(thumbs[rng.integers(0, 40, 120)])


def test_flat_rows_are_alone(rng: Rng) -> None:
    step = np.where(np.arange(576) < 288, 100, 103)  # deviation 1.5
    contrast = np.where(np.arange(576) < 288, 100, 104)  # deviation 2: not flat
    rows = [np.full(576, 0), np.full(576, 0), np.full(576, 255), step, step, contrast, contrast]
    found = check(np.concatenate((np.array(rows, np.uint8), smooth(rng, 3))))
    assert found.flat.tolist() == [True] * 5 + [False] * 5
    assert found.first.tolist() == [0, 1, 2, 3, 4, 5, 5, 7, 8, 9]


def test_light_and_contrast_do_not_count_and_mirroring_does(rng: Rng) -> None:
    face = (smooth(rng, 1) // 2).astype(np.uint8)
    mirrored = face.reshape(1, 24, 24)[:, :, ::-1].reshape(1, 576)
    found = check(np.concatenate((face, face + 40, face * 2, 255 - face, mirrored)))
    assert found.first.tolist() == [0, 0, 0, 3, 4]
    assert found.correlation.tolist() == [1, 1]


def test_one_bright_spot_on_dark(rng: Rng) -> None:
    """All contrast in one px: far from the smooth pictures that the axes are made for."""
    thumbs = np.zeros((200, 576), np.uint8)
    thumbs[np.arange(200), rng.integers(0, 576, 200)] = 255
    check(thumbs)


def test_drawn_faces_and_their_copies() -> None:
    rng = np.random.default_rng(1)
    style = STYLES["ferplus"]
    faces = []
    for index in range(60):
        weights = random_weights(rng, CLASSES[index % 7], style)
        picture = draw_face(random_face(rng, weights, style), random_camera(rng, style), 48)
        faces.append(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))
    copies = []
    for face in faces:
        jpeg = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        small = cv2.resize(face, (40, 40), interpolation=cv2.INTER_AREA)
        copies += [cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), cv2.resize(small, (48, 48))]
    found = check(np.array([thumb(face).reshape(-1) for face in faces + copies]))
    assert_array_equal(found.first[60:], np.repeat(found.first[:60], 2))


@pytest.mark.usefixtures("small_steps")
def test_order_of_rows_and_number_of_workers_change_nothing(rng: Rng) -> None:
    thumbs = smooth(rng, 300)
    thumbs = np.concatenate((thumbs, jitter(rng, thumbs[:200], 6), thumbs[:20]))
    one, three = near_groups(thumbs, workers=1), near_groups(thumbs, workers=3)
    for name in ("first", "pairs", "correlation", "flat"):
        assert_array_equal(getattr(one, name), getattr(three, name))

    order = rng.permutation(len(thumbs))
    moved = near_groups(thumbs[order]).first
    same = one.first[:, None] == one.first
    assert_array_equal(moved[:, None] == moved, same[order][:, order])


def test_a_read_only_map_of_a_file(rng: Rng, tmp_path: Path) -> None:
    thumbs = smooth(rng, 100)
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


@given(few_patterns(), st.sampled_from([0.5, 0.9, 0.98]))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_thumbs(thumbs: np.ndarray, threshold: float) -> None:
    check(thumbs, threshold)


@pytest.mark.parametrize(
    "thumbs",
    [np.zeros((2, 24, 24), np.uint8), np.zeros((2, 575), np.uint8), np.zeros((2, 576), np.float32)],
)
def test_other_shapes_and_types_are_refused(thumbs: np.ndarray) -> None:
    with pytest.raises(FerError, match=r"\[N, 576\] uint8"):
        near_groups(thumbs)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_thresholds_outside_their_range_are_refused(threshold: float) -> None:
    with pytest.raises(FerError, match="above 0"):
        near_groups(np.zeros((2, 576), np.uint8), threshold=threshold)


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
    with pytest.raises(FerError, match=r"\[H, W\] uint8"):
        thumb(grey)


@pytest.mark.real_data
def test_real_faces() -> None:
    """Every group of the published faces, against all half a billion pairs."""
    beside = Path(__file__).resolve().parents[4] / "shared/data"
    file = Path(os.environ.get("FER_DATA") or beside) / "ferplus.tar"
    if not file.is_file():
        pytest.skip(f"no real faces: {file} is not there")
    thumbs = []
    with tarfile.open(file) as tar:
        for member in tar:
            held = tar.extractfile(member) if member.name.endswith(".png") else None
            if held is not None:
                data = np.frombuffer(held.read(), np.uint8)
                thumbs.append(thumb(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)).reshape(-1))
    faces = np.array(thumbs)
    assert len(faces) == 32_137

    unit = faces - faces.mean(1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near_rows = [
        start + np.argwhere(unit[start : start + 1000] @ unit[start:].T >= 0.98)
        for start in range(0, len(unit), 1000)
    ]
    found = near_groups(faces)
    assert_array_equal(found.first, components(np.concatenate(near_rows), len(faces)))
    assert len(found.pairs) == 1872
    assert not found.flat.any()
