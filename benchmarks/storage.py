"""What a database and an object store cost, on real servers of this machine.

    PYTHONPATH=. python benchmarks/storage.py

Dagster: two manifests of the tests' small profile with their gates, on SQLite and on Postgres in
turn. Object store: one artifact of 64 MB in eight files, committed to a folder and to SeaweedFS,
and taken into a second cache; a plain copy is the measure. Then what one look at it costs.
"""

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fer_ml
from fer_assets.lineage import Pipeline
from fer_assets.plan import materialize
from fer_assets.storage import dagster_instance
from fer_ml.mirror import MirroredStore
from fer_ml.object_store import Bucket
from fer_ml.sample import ensure_sample
from fer_ml.settings import settings
from fer_ml.store import Store
from tests import object_server, postgres
from tests.fer_assets.conftest import TINY

ROOT = Path(fer_ml.__file__).parent.parent
ROUNDS, FILES, SIZE = 3, 8, 8 << 20


def timed(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def lineage(drawn: Path, folder: Path, url: str | None) -> float:
    """Seconds for two manifests in a fresh project."""
    (folder / "dagster_home").mkdir(parents=True)
    shutil.copy(ROOT / "workspace.yaml", folder)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", folder / "dagster_home")
    (folder / "fer.toml").write_text(TINY)
    shutil.copytree(drawn, folder / "outputs" / "tiny" / "drawn")
    os.environ |= {"FER_PROJECT": str(folder), "DAGSTER_HOME": str(folder / "dagster_home")}
    os.environ["FER_POSTGRES"] = url or ""
    settings.cache_clear()
    pipeline = Pipeline.open("tiny")
    with dagster_instance() as instance:
        chosen = pipeline.named("manifest/rafdb_basic,manifest/expw_full")
        return timed(lambda: materialize(pipeline, instance, select=chosen))


def commit(store: Store, data: list[bytes]) -> float:
    def make() -> None:
        with store.begin("thing") as run:
            for i, part in enumerate(data):
                run.path(f"{i}.bin").write_bytes(part)

    return timed(make)


def databases(folder: Path) -> Iterator[tuple[str, float]]:
    drawn = ensure_sample(folder / "drawn" / "drawn", 1337)
    with postgres.server() as held:
        lineage(drawn, folder / "warm", None)
        for n in range(ROUNDS):
            yield "manifests on SQLite", lineage(drawn, folder / f"sqlite{n}", None)
            yield "manifests on Postgres", lineage(drawn, folder / f"postgres{n}", held.url)


def object_stores(folder: Path) -> Iterator[tuple[str, float]]:
    (folder / "seaweed").mkdir()
    with object_server.server(folder / "seaweed") as held:
        os.environ |= held.environment
        for n in range(ROUNDS):
            data = [os.urandom(SIZE) for _ in range(FILES)]
            bucket = Bucket(f"s3://faces/{n}")
            local = Store(folder / f"local{n}", "p")
            one = MirroredStore(folder / f"one{n}", "p", bucket=bucket)
            two = MirroredStore(folder / f"two{n}", "p", bucket=bucket)
            yield "commit in a folder", commit(local, data)
            yield "plain copy", timed(partial(shutil.copytree, local.root, folder / f"copy{n}"))
            yield "commit and upload", commit(one, data)
            yield "download and verify", timed(partial(two.current, "thing"))
            yield "a look at what is current", timed(partial(two.current, "thing"))


def main() -> None:
    found: dict[str, list[float]] = {}
    for measure in (object_stores, databases):
        with tempfile.TemporaryDirectory() as folder:
            for how, seconds in measure(Path(folder)):
                found.setdefault(how, []).append(round(seconds, 3))
                print(how, found[how][-1], flush=True)
    print(json.dumps({how: statistics.median(times) for how, times in found.items()}))


if __name__ == "__main__":
    main()
