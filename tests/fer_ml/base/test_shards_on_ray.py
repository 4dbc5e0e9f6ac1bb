"""A Ray cluster of two machines gives what this machine gives, also when one of them is killed."""

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fer_ml.manifests.cleaning as cleaning_module
import fer_ml.manifests.inspection as probe_module
from fer_ml.base.labels import CLASSES
from fer_ml.base.shards import map_shards
from fer_ml.images.pixels import encode_png
from fer_ml.manifests.near import near_groups
from fer_ml.manifests.schema import read_manifest
from fer_ml.packed import packing
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store
from fer_ml.validation.report import validate_file
from tests.fer_ml.base.test_shards import refuse, square
from tests.ray_cluster import add_worker, kill_worker, two_workers
from tests.refusals import refused

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

FACES = 240


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    with two_workers() as cluster:
        yield cluster


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cleaning_module, probe_module):
        monkeypatch.setattr(module, "PARALLEL_FROM", 1)
        monkeypatch.setattr(module, "SHARD_FILES", 20)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publisher's folder with twins, a face that is cut off, and one that is not there."""
    root = tmp_path_factory.mktemp("raw")
    lines = ["file,label,split"]
    for number in range(FACES):
        pixels = np.random.default_rng(number % (FACES - 20)).integers(0, 256, (24, 24, 3))
        (root / f"{number}.png").write_bytes(encode_png(pixels.astype(np.uint8)))
        lines.append(f"{number}.png,{CLASSES[number % 7].lower()},train")
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:200])
    (root / "8.png").unlink()
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


def clean(raw: Path, home: Path) -> Artifact:
    store = Store(home, "test")
    with store.begin("manifest/s") as run:
        cleaning_module.clean_source(
            run,
            source="s",
            adapter="csv_manifest",
            root=raw,
            pool_base=store.root,
            cache=store.probe_cache,
        )
    artifact = store.current("manifest/s")
    assert artifact is not None
    return artifact


def machine(_: int) -> str:
    import ray

    time.sleep(0.2)
    found: str = ray.get_runtime_context().get_node_id()
    return found


@pytest.mark.usefixtures("cluster")
def test_results_come_in_order_from_both_machines() -> None:
    assert list(map_shards(square, range(30))) == [n * n for n in range(30)]
    # A machine whose first process is still starting gets nothing meanwhile.
    seen: set[str] = set()
    end = time.monotonic() + 60
    while len(seen) < 2 and time.monotonic() < end:
        seen |= set(map_shards(machine, range(10)))
    assert len(seen) == 2


@pytest.mark.usefixtures("cluster")
def test_an_error_of_a_shard_is_raised_whole() -> None:
    with refused("three-refused", where="here", fix="leave it out"):
        list(map_shards(refuse, range(5)))


@pytest.mark.usefixtures("cluster")
def test_only_a_few_shards_are_under_way() -> None:
    taken = []
    results = map_shards(square, (taken.append(n) or n for n in range(100)))
    assert next(results) == 0
    assert len(taken) <= 5
    assert sum(1 for _ in results) == 99


@pytest.mark.usefixtures("cluster")
def test_near_identical_faces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0)
    thumbs = noise.integers(0, 256, (600, 576), dtype=np.uint8)
    copies = thumbs[:100].astype(int) + noise.integers(-3, 4, (100, 576))
    thumbs = np.concatenate((thumbs, copies.clip(0, 255).astype(np.uint8)))
    monkeypatch.setattr("fer_ml.manifests.near._TASK", 256)
    there = near_groups(thumbs)
    monkeypatch.setenv("FER_ENGINE", "local")
    here = near_groups(thumbs)
    assert len(here.pairs) >= 90
    for name in ("first", "pairs", "likeness", "flat"):
        assert np.array_equal(getattr(there, name), getattr(here, name))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.fault(
    "a machine of a Ray cluster is killed",
    "Its shards are computed on another machine, with the same bytes.",
)
def test_a_manifest_and_its_validation_are_the_same_though_a_machine_is_killed(
    cluster: "Cluster", raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_kill(function: Callable[..., Any], shards: Iterable[Any], **how: Any) -> Iterator[Any]:
        for number, result in enumerate(map_shards(function, shards, **how)):
            if number == 2:
                kill_worker(cluster)
            yield result

    monkeypatch.setattr(probe_module, "map_shards", and_kill)
    there = clean(raw, tmp_path / "there")
    assert len(cluster.worker_nodes) == 1
    monkeypatch.setattr(probe_module, "map_shards", map_shards)
    add_worker(cluster)
    manifest, root = there.file("s.csv"), Store(tmp_path / "there", "test").root
    # No cache of cleaning: every image is decoded again.
    validated = validate_file(manifest, [root], tmp_path / "again")

    monkeypatch.setenv("FER_ENGINE", "local")
    assert validated == validate_file(manifest, [root], tmp_path / "once more")
    assert validated["checked"]["decoded"] == FACES - 2
    here = clean(raw, tmp_path / "here")
    assert there.sha256 == here.sha256
    assert {name: held.sha256 for name, held in there.record.files.items()} == {
        name: held.sha256 for name, held in here.record.files.items()
    }
    assert here.record.summary["rows"] == FACES - 2


@pytest.mark.usefixtures("cluster")
def test_packed_faces_have_the_same_bytes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, spec = read_manifest(clean(raw, tmp_path).file("s.csv")), Preprocess(size=16)
    root = Store(tmp_path, "test").root
    monkeypatch.setattr(packing, "PARALLEL_FROM", 1)
    monkeypatch.setattr(packing, "_BYTES_AT_ONCE", 20 * 3 * spec.packed_size**2)
    there = packing.packed_faces(frame, root, spec, tmp_path / "there")
    monkeypatch.setenv("FER_ENGINE", "local")
    here = packing.packed_faces(frame, root, spec, tmp_path / "here")
    assert [file.name for file in there] == [file.name for file in here]
    assert [file.read_bytes() for file in there] == [file.read_bytes() for file in here]


@pytest.mark.fault(
    "all machines of a Ray cluster are gone, or its address is wrong",
    "One clear error.",
)
def test_without_a_machine_left_it_says_so(
    cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_ml.base.shards._PATIENCE", 1)
    results = map_shards(machine, range(100))
    next(results)
    while cluster.worker_nodes:
        kill_worker(cluster)
    with refused("ray-failure"):
        list(results)
