"""The whole lineage of a small profile that has everything a gate can judge."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from demo_app.shipped import SHIPPED
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.remote import adopt_foreign
from fer_ml.base.settings import settings
from fer_ml.bundles.bundle import load_bundle
from fer_ml.sample.video import draw_video
from fer_ml.training import RUN_FILES
from tests.fer_assets.conftest import TINY
from tests.fer_assets.gates.planting import Bed
from tests.fer_assets.stages.sessions import record
from tests.fer_ml.adoption import first_pipeline as old

#: Beside the tiny profile: colour, a curation of all splits, two equal experiments, a model from
#: elsewhere and a recorded session.
WHOLE = """
[profiles.tiny.preprocess]
colour = "rgb"
[profiles.tiny.curations.wide]
sources = ["affectnet_full_balanced", "rafdb_basic", "expw_full"]
[profiles.tiny.experiments.one]
architecture = "test_resnet"
task = { kind = "ce" }
init = "none"
epochs = 1
batch_size = 16
[profiles.tiny.experiments.two]
architecture = "test_resnet"
task = { kind = "ce" }
init = "none"
epochs = 1
batch_size = 16
strength = 0.3
[profiles.tiny.comparisons.it]
arms = { one = ["one"], two = ["two"] }
baseline = "one"
varies = ["strength"]
seeds = 1
[profiles.tiny.models]
friend = "friend.pt"
[profiles.tiny.demo]
session = "recorded"
p95_limit_ms = 10000
"""


#: What no gate judges and no other stage needs, or what judges another one judges too.
UNNEEDED = ("label_review", "prediction_review", "teacher_bundle", "ensemble_bundle")


def make_all(project: Path) -> Pipeline:
    """Make and judge the stages of the profile, also what is made on request."""
    tiny = TINY.replace('one_per = "sample"', 'one_per = "row"')
    (project / "fer.toml").write_text(tiny[: tiny.index("[profiles.tiny.demo]")] + WHOLE)
    settings.cache_clear()
    pipeline = Pipeline.open("tiny")
    draw_video(project / "film", 1, seconds=2)
    record(project / "film" / "demo.avi", load_bundle(SHIPPED), project / "recorded")
    for stage in (stage for name, stage in pipeline.stages.items() if name not in UNNEEDED):
        if stage.asset == "external_model":
            weights = pipeline.store.require("student_ce").file("best.pt")
            shutil.copyfile(weights, pipeline.model_path("friend"))
        if stage.asset == "adopted":
            adopt_all(pipeline, project)
            continue
        for key in pipeline.partitions(stage) if stage.partitions else [None]:
            pipeline.make(Target(stage.asset, key))
            pipeline.judge(Target(stage.asset, key))
    return pipeline


def adopt_all(pipeline: Pipeline, project: Path) -> None:
    """A run that was trained here, as somebody else would hand it over, and soft labels."""
    student, folder = pipeline.store.require("student_ce"), project / "friends_run"
    folder.mkdir()
    for name in RUN_FILES:
        shutil.copyfile(student.file(name), folder / name)
    with dg.DagsterInstance.ephemeral() as instance:
        adopt_foreign(pipeline, folder, instance, name="friend")
        adopt_foreign(pipeline, old.softlabels(project / "soft"), instance, name="labels")


@pytest.fixture(scope="module")
def bed(project: Callable[[str], Pipeline]) -> Bed:
    """A pipeline in which one artifact of each kind is made and judged."""
    return Bed(make_all(project("tiny").settings.project))
