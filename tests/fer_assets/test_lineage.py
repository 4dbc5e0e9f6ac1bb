"""What an asset rests on follows from what is cited, and from nothing else."""

from pathlib import Path

import pytest

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_ml.base.settings import Settings, UserConfig
from fer_ml.recipes.builtin import sample
from fer_ml.storage.store import Store

CLAIM = """
  - id: {name}
    kind: number
    sentence: "{{value}} steps."
    asset: {asset}
    file: training.json
    pointer: /steps
"""


def needed(folder: Path, *cited: tuple[str, str | None]) -> set[str]:
    """Inputs of ``report_claims`` when a claim cites each asset, with its partition."""
    claims = "version: 2\ntitle: Cited\nclaims:"
    for number, (asset, partition) in enumerate(cited):
        claims += CLAIM.format(name=f"c{number}", asset=asset)
        claims += f"    partition: {partition}\n" if partition else ""
    (folder / "claims").mkdir()
    (folder / "claims" / "sample.yaml").write_text(claims)
    here = Settings(
        project=folder,
        dagster_home=folder,
        home=folder,
        profile="sample",
        device="cpu",
        config=UserConfig(),
    )
    pipeline = Pipeline(here, sample(), Store(folder, "sample"))
    return {need.label for need in pipeline.needed(Target("report_claims"))}


def test_claims_on_one_partition_rest_on_it_alone(tmp_path: Path) -> None:
    """Else a claim on one experiment would ask for the training of all of them."""
    cited = [
        ("student_experiment", "kd"),
        ("student_experiment", "ema"),
        ("student_kd", None),
        ("teacher", "B3"),
    ]
    assert needed(tmp_path, *cited) == {
        "student_experiment[ema]",
        "student_experiment[kd]",
        "student_kd",
        "teacher[B3]",
    }


def test_a_claim_on_the_whole_rests_on_every_partition(tmp_path: Path) -> None:
    assert needed(tmp_path, ("teacher", None), ("teacher", "B3")) == {
        "teacher[RN18]",
        "teacher[B3]",
        "teacher[CNXT]",
    }


@pytest.mark.parametrize(
    ("cited", "found"),
    [(("teacher", "VGG"), set()), (("student_kd", "RN18"), {"student_kd"})],
)
def test_what_is_no_partition_is_said_when_the_claim_is_resolved(
    tmp_path: Path, cited: tuple[str, str | None], found: set[str]
) -> None:
    assert needed(tmp_path, cited) == found
