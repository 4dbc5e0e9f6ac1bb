"""Fixtures of the rooms whose functions the stages call."""

from pathlib import Path

import pytest

from fer_ml.sample.video import draw_video
from tests.demo_app.conftest import bundle, bundle_folder, scripted, write_video
from tests.fer_ml.adoption.conftest import adopt
from tests.fer_ml.claims.conftest import chain, put, raw
from tests.fer_ml.evaluation.conftest import lineage
from tests.fer_ml.report.conftest import artifacts, make
from tests.fer_ml.training.conftest import faces, job_of, one_thread, recipe, soft_of

__all__ = [
    "adopt",
    "artifacts",
    "bundle",
    "bundle_folder",
    "chain",
    "faces",
    "job_of",
    "lineage",
    "make",
    "one_thread",
    "put",
    "raw",
    "recipe",
    "scripted",
    "soft_of",
    "write_video",
]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the drawn clip, with its truth beside it."""
    folder = tmp_path_factory.mktemp("film")
    draw_video(folder, 1, seconds=2)
    return folder / "demo.avi"
