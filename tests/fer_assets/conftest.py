"""A project of its own for each test module, over one drawn sample."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fer_assets.pipeline import Pipeline
from fer_ml.base.settings import settings
from fer_ml.sample import ensure_sample

ROOT = Path(__file__).parent.parent.parent
SEED = 1337

#: The whole lineage with one teacher, out of fold, and students of a few seconds.
TINY = """
[profiles.tiny]
base = "ferplus"
without = ["experiments", "comparisons"]
softlabels = { folds = 2, views = 2 }
drawn = true
floor_macro_f1 = 0.0
robustness_faces = 14
draw = { val = 0.2, calib = 0.5, test = 0.25 }
hq_train = { sources = ["affectnet_full_balanced", "rafdb_basic"], one_per = "sample" }
eval_only = { sources = ["expw_full"] }
test_all_sources = { sources = ["affectnet_full_balanced", "rafdb_basic", "expw_full"] }
sources = [
  { name = "affectnet_full_balanced", adapter = "split_folders" },
  { name = "rafdb_basic", adapter = "rafdb_basic" },
  { name = "expw_full", adapter = "expw" },
]
[profiles.tiny.teachers.RN18]
architecture = "test_resnet"
stem_stride = 2
epochs = 2
batch_size = 16
strength = 0.3
precision = "fp32"
task = { kind = "arcface", plain_epochs = 1, ramp_end = 2, embedding = 16, scale = 10 }
[profiles.tiny.students.ce]
epochs = 3
architecture = "test_resnet"
optimiser = "adamw"
lr = 1e-3
weight_decay = 0.05
batch_size = 16
strength = 0.3
stem_stride = 2
[profiles.tiny.students.kd]
task = { kind = "kd", ce_weight = 1.0, kd_weight = 1.0 }
epochs = 1
init = "previous"
architecture = "test_resnet"
optimiser = "adamw"
lr = 1e-3
weight_decay = 0.05
batch_size = 16
strength = 0.3
stem_stride = 2
[profiles.tiny.students.dkd]
task = { kind = "dkd", ce_weight = 1.0, tckd_weight = 1.0, nckd_weight = 2.0 }
epochs = 1
init = "previous"
architecture = "test_resnet"
optimiser = "adamw"
lr = 1e-3
weight_decay = 0.05
batch_size = 16
strength = 0.3
stem_stride = 2
[profiles.tiny.experiments.negative]
architecture = "test_resnet"
task = { kind = "ce" }
init = "none"
epochs = 1
batch_size = 16
negative = { weight = 0.1, entropy_gate = 0.0 }
[profiles.tiny.demo]
video = "outputs/tiny/drawn/video/demo.avi"
p95_limit_ms = 10000
"""

TINY_CLAIMS = """
version: 2
title: A tiny run
claims:
  - id: rows
    kind: number
    sentence: "There are {value} rows."
    asset: classification_manifest
    file: clean_report.json
    pointer: /manifest/rows
  - id: expw
    kind: number
    sentence: "ExpW lists {value} rows."
    asset: manifest/expw_full
    file: clean_report.json
    pointer: /reports/0/rows_in
  - id: teacher
    kind: number
    sentence: "The teacher has {value}."
    asset: teacher
    partition: RN18
    file: reliabilitymetrics.json
    pointer: /raw/macro_f1
    decimals: 3
  - id: accuracy
    kind: proportion
    sentence: "A proportion of {value} is right."
    asset: benchmark
    file: benchmark.json
    pointer: /entries/student_kd/test_all_sources/raw/accuracy
    n: /entries/student_kd/test_all_sources/n
    decimals: 4
  - id: settings
    kind: configuration
    sentence: "KD was trained with {value}."
    asset: student_kd
    settings: {/training/epochs: 1, /training/task/kind: kd}
  - id: formula
    kind: formula
    sentence: "It minimises {value}."
    asset: student_kd
    formula: kd
    says: CE + T^2 * KL
  - id: compared
    kind: table
    sentence: "CE and KD on one test set: {value}."
    unequal_budgets: true
    asset: benchmark
    file: benchmark.json
    rows:
      CE: /entries/student_ce/test_all_sources
      KD: /entries/student_kd/test_all_sources
    columns: {accuracy: /raw/accuracy, macro-F1: /raw/macro_f1}
"""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One drawn sample for all tests of this folder."""
    return ensure_sample(tmp_path_factory.mktemp("drawn") / "drawn", SEED)


OpenProject = Callable[[str], Pipeline]


@pytest.fixture(scope="module")
def project(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenProject]:
    """A fresh project and artifact root; gives a function that opens a profile in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dagster_home").mkdir()
    (folder / "claims").mkdir()
    shutil.copy(ROOT / "workspace.yaml", folder)
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", folder / "dagster_home")
    shutil.copy(ROOT / "claims" / "sample.yaml", folder / "claims")
    (folder / "claims" / "tiny.yaml").write_text(TINY_CLAIMS)
    (folder / "fer.toml").write_text(TINY)
    patch = pytest.MonkeyPatch()
    patch.setenv("FER_PROJECT", str(folder))
    patch.setenv("FER_HOME", str(folder / "outputs"))
    patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
    patch.delenv("FER_PROFILE", raising=False)

    def open_profile(name: str) -> Pipeline:
        patch.setenv("FER_PROFILE", name)
        settings.cache_clear()
        home = folder / "outputs" / name / "drawn"
        if not home.exists():
            # copytree keeps the times, which are part of a raw folder's fingerprint.
            shutil.copytree(drawn, home)
        return Pipeline.open(name)

    yield open_profile
    patch.undo()
    settings.cache_clear()
