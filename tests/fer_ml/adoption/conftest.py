"""Adopting without Dagster: a store, and the builder that fer adopt runs in it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fer_ml.adoption.build import build_foreign
from fer_ml.adoption.folder import recognise
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.job import Job
from fer_ml.storage.store import Store

Adopt = Callable[..., Artifact]


def job_in(store: Store, inputs: Iterable[Artifact] = ()) -> Job[None]:
    """What the builder of ``adopted[x]`` is given."""
    held = {artifact.key: artifact for artifact in inputs}
    return Job("adopted", "x", store, None, held, {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home" / "sample", "sample")


@pytest.fixture
def adopt(store: Store) -> Adopt:
    """Adopt a path as ``adopted[x]``; ``inputs`` are manifests that it names by hash."""

    def run(path: Path, inputs: Iterable[Artifact] = (), **options: Any) -> Artifact:
        foreign = recognise(path)
        with store.begin("adopted", "x", inputs=[i.as_input() for i in inputs]) as folder:
            build_foreign(folder, job_in(store, inputs), foreign=foreign, **options)
        artifact = store.current("adopted", "x")
        assert artifact is not None
        return artifact

    return run


def failed(artifact: Artifact) -> set[str]:
    """The checks that do not hold."""
    return {c["check"] for c in artifact.read_json("adoption.json")["checks"] if not c["holds"]}
