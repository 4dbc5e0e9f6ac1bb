"""The sample's data: cleaning finds exactly the planted faults, and the gates then pass."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from fer_assets.assets import wait_for_gates
from fer_assets.keys import asset_key
from fer_assets.lineage import Target
from fer_assets.metadata import artifact_metadata
from fer_assets.pipeline import Pipeline
from fer_assets.repository import definitions_for
from fer_assets.running import materialize
from fer_assets.staleness import stale_reason
from fer_ml.manifests.schema import read_manifest
from fer_ml.validation.gates import MANIFEST_GATES
from tests.refusals import refused


@pytest.fixture(scope="module")
def sample(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("sample")
    with dg.DagsterInstance.get() as instance:
        materialize(
            pipeline,
            instance,
            select=lambda target: pipeline.stage(target.asset).group == "manifests",
        )
    return pipeline


def validated(pipeline: Pipeline) -> list[str]:
    """Every manifest that gets a report."""
    return [need.asset for need in pipeline.stage("manifest_validation").needs]


def quarantined(pipeline: Pipeline) -> pl.DataFrame:
    parts = [
        pl.read_csv(artifact.file("quarantine.csv"), infer_schema=False)
        for name in pipeline.stages
        if (artifact := pipeline.store.current(name)) and "quarantine.csv" in artifact.record.files
    ]
    return pl.concat(parts)


def test_quarantine_holds_exactly_the_planted_faults(sample: Pipeline, drawn: Path) -> None:
    truth = json.loads((drawn / "truth.json").read_text())
    rows = quarantined(sample)

    def known_by(row: dict[str, str]) -> tuple[str, str, str]:
        # A leaking row is found by its image; all others where the publisher lists them.
        place = row["file"] if row["rule"] == "leakage" else row["where"]
        return row["source"], place, row["rule"]

    planted = Counter(known_by(fault) for fault in truth["faults"])
    found = Counter(known_by(row) for row in rows.iter_rows(named=True))
    assert found == planted
    assert rows["detail"].null_count() == 0


def test_rows_add_up_to_what_the_publisher_lists(sample: Pipeline, drawn: Path) -> None:
    truth = json.loads((drawn / "truth.json").read_text())
    for source, rows in truth["rows"].items():
        artifact = sample.store.current(f"manifest/{source}")
        assert artifact
        report = artifact.read_json("clean_report.json")["reports"][0]
        assert report["rows_in"] == rows
        assert report["excluded"] == {
            reason: n for reason, n in truth["exclusions"].get(source, {}).items() if n
        }


def test_all_blocking_gates_pass_on_the_cleaned_manifests(sample: Pipeline) -> None:
    for asset in validated(sample):
        artifact = sample.store.current(asset)
        assert artifact
        receipts = artifact.receipts()
        for gate in MANIFEST_GATES:
            assert receipts[gate.rule].passed or not gate.blocking, (asset, gate.rule)


def test_no_photo_lies_in_two_splits(sample: Pipeline) -> None:
    artifact = sample.store.current("classification_manifest")
    assert artifact
    frame = read_manifest(artifact.file("classification_manifest.csv"))
    assert frame.group_by("group_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(frame["split"]) == {"train", "val", "calib", "test"}


def test_a_second_run_has_nothing_to_do(sample: Pipeline) -> None:
    with dg.DagsterInstance.get() as instance:
        done = materialize(
            sample,
            instance,
            select=lambda target: sample.stage(target.asset).group == "manifests",
        )
    assert done == []


def test_an_unchanged_result_makes_nothing_downstream_stale(sample: Pipeline) -> None:
    target = Target("manifest/ferplus")
    before = sample.store.current(target.asset)
    sample.make(target)
    sample.judge(target)
    after = sample.store.current(target.asset)
    assert before and after and before.folder != after.folder
    assert before.sha256 == after.sha256
    assert stale_reason(sample, Target("classification_manifest"), {}) is None


def test_receipts_say_how_each_row_was_checked(sample: Pipeline) -> None:
    """Cleaning decoded the images; the manifest's links are known by their inodes."""
    sample.judge(Target("classification_manifest"))
    artifact = sample.store.current("classification_manifest")
    assert artifact
    detail = artifact.receipts()["undecodable"].detail
    assert detail.startswith(f"0 rows read and decoded now, {artifact.record.summary['rows']:,} ")


def test_a_full_pass_decodes_every_image_once(sample: Pipeline) -> None:
    with dg.DagsterInstance.get() as instance:
        job = definitions_for(sample).resolve_job_def("revalidate_fully")
        assert job.execute_in_process(instance=instance).success
    validation = sample.store.current("manifest_validation")
    assert validation
    decoded = sum(
        held["decoded"] for held in validation.read_json("timing.json")["checked"].values()
    )
    for asset in validated(sample):
        artifact = sample.store.current(asset)
        assert artifact
        detail = artifact.receipts()["undecodable"].detail
        decoded += int(detail.split(" rows")[0].replace(",", ""))
    unified = sample.store.current("classification_manifest")
    assert unified
    # Checks and report of four manifests looked at the same images: only the first look decoded.
    assert decoded == unified.record.summary["rows"]


def test_the_pages_of_the_ui_list_the_runs_of_the_command(sample: Pipeline) -> None:
    """They ask for runs of their own repository, and draw them from start to end."""
    file = yaml.safe_load((sample.settings.project / "workspace.yaml").read_text())
    location = file["load_from"][0]["python_module"]["location_name"]
    listed = dg.RunsFilter(tags={".dagster/repository": f"sample@{location}"})
    with dg.DagsterInstance.get() as instance:
        (record,) = instance.get_run_records(listed)
        run, start, end = record.dagster_run, record.start_time, record.end_time
        steps = instance.get_run_step_stats(run.run_id)
        made = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
    assert (run.job_name, run.status) == ("data", dg.DagsterRunStatus.SUCCESS)
    assert run.remote_job_origin and run.remote_job_origin.location_name == location
    assert start and end and record.create_timestamp.timestamp() <= start < end
    assert len(made) == sum(sample.stage(name).group == "manifests" for name in sample.stages)
    assert all(start < event.timestamp < end for event in made)
    assert len(steps) > len(made), "gates are steps too"
    for step in steps:
        assert step.start_time and step.end_time
        assert start < step.start_time < step.end_time < end


@pytest.mark.parametrize("where", ["by the command", "by a click"])
def test_raw_folders_are_observed_however_their_manifest_is_made(
    sample: Pipeline, tmp_path: Path, where: str
) -> None:
    """And it is made of just that: else the UI calls it stale from its first moment on."""
    target = Target("manifest/rafdb_basic")
    raw, made = (asset_key("sample", f"{group}/rafdb_basic") for group in ("raw", "manifest"))
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for _ in range(2):
            if where == "by a click":
                job = definitions_for(sample).resolve_implicit_global_asset_job_def()
                job = job.get_subset(asset_selection={made})
                assert job.execute_in_process(instance=instance).success
            else:
                materialize(sample, instance, select=lambda t: t == target, force=True)
        (seen,) = instance.fetch_observations(raw, limit=9).records
        event = instance.get_latest_materialization_event(made)
    held = sample.store.current(target.asset)
    assert held and event and event.asset_materialization and seen.asset_observation
    (fingerprint,) = (item for item in held.record.inputs if item.asset == "raw/rafdb_basic")
    assert seen.asset_observation.data_version == fingerprint.sha256
    assert seen.asset_observation.metadata["root"].value == fingerprint.root
    tags = event.asset_materialization.tags
    assert tags["dagster/input_data_version/sample/raw/rafdb_basic"] == fingerprint.sha256


def test_faces_are_shown_in_dagster_only_where_they_may(sample: Pipeline) -> None:
    artifact = sample.store.current("manifest_validation")
    assert artifact
    shown, named = (artifact_metadata(artifact, faces=faces)["faces"] for faces in (True, False))
    assert isinstance(shown, dg.MarkdownMetadataValue)
    assert isinstance(named, dg.PathMetadataValue)
    assert sample.shows_faces, "drawn faces are nobody's"


def test_a_launch_without_checks_gives_bytes_that_no_consumer_takes(sample: Pipeline) -> None:
    """Dagster lets a run skip the checks; the receipt beside the bytes is what stops the next."""
    key = asset_key("sample", "hq_train_manifest")
    definitions = definitions_for(sample)
    with dg.DagsterInstance.get() as instance:
        job = definitions.resolve_job_def("data").get_subset(
            asset_selection={key}, asset_check_selection=set()
        )
        assert job.execute_in_process(instance=instance).success
        with refused("gate-not-judged"):
            sample.store.require("hq_train_manifest")
        teachers = definitions.resolve_job_def("teachers").get_subset(
            asset_selection={asset_key("sample", "teacher")}
        )
        run = teachers.execute_in_process(
            instance=instance, partition_key="RN18", raise_on_error=False
        )
    assert not run.success
    assert sample.store.current("teacher", "RN18") is None
    sample.judge(Target("hq_train_manifest"))
    assert sample.store.require("hq_train_manifest")


def test_a_step_waits_while_another_run_still_judges_its_input(
    sample: Pipeline, tmp_path: Path
) -> None:
    """A backfill starts it when the input is made."""

    @dg.job
    def nothing() -> None: ...

    made, target = Target("classification_manifest"), Target("eval_only_manifest")
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        maker, run = (
            instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
            for _ in range(2)
        )
        sample.make(made, run_id=maker.run_id)
        with pytest.raises(dg.RetryRequested):
            wait_for_gates(sample, target, instance, run)
        wait_for_gates(sample, target, instance, maker)  # Its own gates are no other run's.
        instance.report_run_canceled(maker)
        wait_for_gates(sample, target, instance, run)  # Nobody judges: it will be refused.
        sample.judge(made)


def test_a_sick_manifest_turns_the_gate_red_and_green_after_the_mend(sample: Pipeline) -> None:
    artifact = sample.store.current("hq_train_manifest")
    assert artifact
    frame = read_manifest(artifact.file("classification_manifest_hq_train.csv"))
    path = sample.store.root / frame["image_path"][0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(b"not an image")
    try:
        outcomes = {o.rule: o for o in sample.judge(Target("hq_train_manifest"))}
        assert not outcomes["undecodable"].passed
        assert frame["image_path"][0] in outcomes["undecodable"].examples[0]
        with refused("gate-failed"):
            sample.make(Target("teacher", "RN18"))
    finally:
        path.write_bytes(data)
    assert all(o.passed is not False for o in sample.judge(Target("hq_train_manifest")))


def test_a_manifest_with_one_flipped_byte_trains_nothing(sample: Pipeline) -> None:
    artifact = sample.store.current("hq_train_manifest")
    assert artifact
    path = artifact.file("classification_manifest_hq_train.csv")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"train", b"trail", 1))
    try:
        with refused("artifact-changed"):
            sample.make(Target("teacher", "RN18"))
    finally:
        path.write_bytes(data)


def test_a_backbone_that_the_profile_does_not_train_is_an_error(
    project: Callable[[str], Pipeline],
) -> None:
    tiny = project("tiny")
    with refused("not-in-profile"):
        tiny.make(Target("teacher", "B3"))


def test_a_killed_run_leaves_nothing_half_written(sample: Pipeline) -> None:
    script = (
        "import os\n"
        "from fer_assets.lineage import Target\nfrom fer_assets.pipeline import Pipeline\n"
        "import fer_ml.manifests.cleaning as cleaning\n"
        "cleaning.write_notes = lambda *a: os._exit(9)\n"
        "Pipeline.open('sample').make(Target('manifest/ferplus'))\n"
    )
    before = sample.store.current("manifest/ferplus")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=False)
    assert done.returncode == 9
    assert sample.store.current("manifest/ferplus") == before
    assert list((sample.store.root / ".partial").iterdir())
    assert sample.store.sweep() == 1
    assert list((sample.store.root / ".partial").iterdir()) == []
