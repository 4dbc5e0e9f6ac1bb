"""Cost of a database and of an object store, on real servers on this machine.

fer bench storage

Its servers are those of the tests, so it finds the project on PYTHONPATH, where fer bench puts it.

Dagster: two manifests of the tests' small profile with their gates, alternately on SQLite and on
Postgres. Object store: one artifact of 64 MB in eight files, committed to a folder and to
SeaweedFS, and downloaded into a second cache, relative to a plain copy; then the time to look up
the current artifact (two requests).
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.storage import dagster_instance
from fer_ml.base.settings import settings
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.sample import ensure_sample
from fer_ml.storage.mirror import MirroredStore
from fer_ml.storage.object_store import Bucket
from fer_ml.storage.store import Store
from tests import object_server, postgres
from tests.fer_assets.conftest import TINY

ROOT = Path(__file__).parent.parent
FILES, SIZE = 8, 8 << 20


def timed(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def lineage(drawn: Path, folder: Path, url: str | None) -> float:
    """Return the seconds for two manifests in a new project."""
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


def databases(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    drawn = ensure_sample(folder / "drawn" / "drawn", 1337)
    with postgres.server() as held:
        lineage(drawn, folder / "warm", None)
        for n in range(rounds):
            yield "manifests on SQLite", lineage(drawn, folder / f"sqlite{n}", None)
            yield "manifests on Postgres", lineage(drawn, folder / f"postgres{n}", held.url)


def object_stores(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    (folder / "seaweed").mkdir()
    with object_server.server(folder / "seaweed") as held:
        os.environ |= held.environment
        for n in range(rounds):
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    for measure in (object_stores, databases):
        with tempfile.TemporaryDirectory() as folder:
            for how, seconds in measure(Path(folder), given.rounds):
                found.setdefault(how, []).append(round(seconds, 3))
    plain = found.pop("plain copy")
    looks = found.pop("a look at what is current")

    def over(name: str, floor: list[float], of: str) -> Figure:
        ratios = [seconds / under for seconds, under in zip(found[name], floor, strict=True)]
        return Figure.of(name, ratios, over=of)

    publish(
        Benchmark(
            title="A database and an object store",
            data="Two drawn manifests with their gates; one artifact of 64 MB in eight files, on "
            "SeaweedFS. Both servers are of this machine.",
            figures=(
                over("manifests on Postgres", found["manifests on SQLite"], "on SQLite"),
                Figure.of("manifests on SQLite", found["manifests on SQLite"], "s"),
                over("commit and upload", found["commit in a folder"], "commit in a folder"),
                over("commit and upload", plain, "a plain copy"),
                over("download and verify", plain, "a plain copy"),
                Figure.of("a look at what is current: two requests", looks, "s"),
            ),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
