"""What runs by itself: what starts, what stops it, and who is told."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from fer_assets.automation import BEHIND_PEOPLE
from fer_assets.digest import digest_of
from fer_assets.keys import asset_key, asset_of
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.repository import definitions_for
from fer_assets.running import materialize
from fer_assets.stages import gates_of
from fer_assets.staleness import stale_reason
from fer_ml.base.settings import Notifiers
from fer_ml.manifests.schema import read_manifest
from tests.webhook import Hook

SOURCE = "expw_full"


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("tiny")
    with dg.DagsterInstance.get() as instance:
        materialize(
            pipeline, instance, select=lambda t: pipeline.stage(t.asset).group == "manifests"
        )
    return pipeline


@pytest.fixture
def instance(tiny: Pipeline) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as found:
        yield found


def touch(pipeline: Pipeline) -> None:
    """Give one file of the source another time: another fingerprint, the same pixels."""
    path = next((pipeline.store.root / "drawn" / "raw" / SOURCE).rglob("*.jpg"))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))


def look(
    definitions: dg.Definitions, instance: dg.DagsterInstance, cursor: str | None
) -> dg.SensorResult:
    """One tick of ``raw_changed``, with its observations reported as the daemon does."""
    sensor = definitions.resolve_sensor_def("raw_changed")
    result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)  # type: ignore[arg-type]
    return result


def requested(result: dg.EvaluateAutomationConditionsResult) -> set[str]:
    return {asset_of(r.key) for r in result.results if r.true_subset.size}


def make(definitions: dg.Definitions, instance: dg.DagsterInstance, assets: set[str]) -> None:
    """Make what a tick requested, with its checks, as the daemon's run does."""
    keys = {asset_key("tiny", asset) for asset in assets}
    job = definitions.resolve_job_def("data").get_subset(asset_selection=keys)
    assert job.execute_in_process(instance=instance).success


def test_everything_that_is_safe_is_on(tiny: Pipeline) -> None:
    repository = definitions_for(tiny).get_repository_def()
    assert {s.name for s in repository.schedule_defs} == {
        "nightly_retention",
        "nightly_revalidation",
        "weekly_full_revalidation",
        "daily_digest",
    }
    assert all(
        s.default_status == dg.DefaultScheduleStatus.RUNNING for s in repository.schedule_defs
    )
    sensors = {s.name: s for s in repository.sensor_defs}
    assert set(sensors) == {"raw_changed", "flow_up_to_the_gates", "run_failed", "experiments"}
    assert {s.default_status.value for s in sensors.values()} == {"RUNNING"}


def test_only_manifests_are_made_without_a_person(tiny: Pipeline) -> None:
    graph = definitions_for(tiny).resolve_asset_graph()
    alone = {
        asset_of(key)
        for key in graph.materializable_asset_keys
        if graph.get(key).automation_condition is not None
    }
    assert alone == {name for name, stage in tiny.stages.items() if stage.group == "manifests"}


def test_a_changed_source_flows_up_to_the_gates_and_no_further(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    definitions = definitions_for(tiny)
    first = dg.evaluate_automation_conditions(definitions, instance)
    assert requested(first) == set(), "what is there is not made again at the first look"
    touch(tiny)
    begun = look(definitions, instance, None)
    assert begun.asset_events == [], "nothing is noted before the conditions had their first look"
    seen = look(definitions, instance, begun.cursor)
    assert [e.asset_key for e in seen.asset_events] == [asset_key("tiny", f"raw/{SOURCE}")]
    again = look(definitions, instance, seen.cursor)
    assert again.asset_events == [], "one change is noted once"
    tick = dg.evaluate_automation_conditions(definitions, instance, cursor=first.cursor)
    assert requested(tick) == {f"manifest/{SOURCE}"}
    before = tiny.store.current("classification_manifest")
    make(definitions, instance, requested(tick))
    # The pixels are the same, so the manifest's bytes are, and nothing follows.
    tick = dg.evaluate_automation_conditions(definitions, instance, cursor=tick.cursor)
    assert requested(tick) == set()
    assert tiny.store.current("classification_manifest") == before
    assert look(definitions, instance, again.cursor).cursor == "{}"


def test_another_row_flows_through_every_manifest_and_starts_no_training(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    definitions = definitions_for(tiny)
    tick = dg.evaluate_automation_conditions(definitions, instance)
    next((tiny.store.root / "drawn" / "raw" / SOURCE).rglob("*.jpg")).unlink()
    look(definitions, instance, "{}")
    flow = []
    while True:
        tick = dg.evaluate_automation_conditions(definitions, instance, cursor=tick.cursor)
        if not requested(tick):
            break
        flow.append(requested(tick))
        make(definitions, instance, flow[-1])
    assert flow[0] == {f"manifest/{SOURCE}"}
    assert flow[1] == {"classification_manifest"}
    made = set().union(*flow)
    assert made >= {"test_all_sources_manifest", "manifest_validation"}
    assert {tiny.stage(asset).group for asset in made} == {"manifests"}
    raw = {source.name: tiny.raw_input(source.name).sha256 for source in tiny.profile.sources}
    assert not any(stale_reason(tiny, Target(asset), raw) for asset in made)


def test_a_red_gate_stops_the_flow_and_a_mended_one_lets_it_on(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    definitions = definitions_for(tiny)
    tick = dg.evaluate_automation_conditions(definitions, instance)
    key = asset_key("tiny", f"manifest/{SOURCE}")
    graph = definitions.resolve_asset_graph()
    checks = [check for check in graph.asset_check_keys if check.asset_key == key]

    def report(passed: bool) -> None:
        for check in checks:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=check.name,
                    passed=passed,
                    severity=dg.AssetCheckSeverity.ERROR,
                )
            )

    instance.report_runless_asset_event(
        dg.AssetMaterialization(key, tags={"dagster/data_version": "other"})
    )
    report(False)
    tick = dg.evaluate_automation_conditions(definitions, instance, cursor=tick.cursor)
    assert requested(tick) == set()
    report(True)
    tick = dg.evaluate_automation_conditions(definitions, instance, cursor=tick.cursor)
    assert requested(tick) == {"classification_manifest"}


def test_schedules_skip_until_there_is_something_to_do(tiny: Pipeline, tmp_path: Path) -> None:
    empty = replace(tiny, store=replace(tiny.store, root=tmp_path))
    for pipeline, due in ((tiny, True), (empty, False)):
        repository = definitions_for(pipeline).get_repository_def()
        for name in ("nightly_revalidation", "weekly_full_revalidation"):
            schedule = repository.get_schedule_def(name)
            found = schedule.evaluate_tick(
                dg.build_schedule_context(scheduled_execution_time=datetime.now(UTC))
            )
            assert bool(found.run_requests) == due
            if due:
                assert found.run_requests[0].tags.items() >= BEHIND_PEOPLE.items()
            else:
                assert "fer materialize" in found.skip_message


def test_the_digest_is_sent_where_somebody_is_to_be_told(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    def tick(pipeline: Pipeline) -> Any:
        schedule = definitions_for(pipeline).get_repository_def().get_schedule_def("daily_digest")
        return schedule.evaluate_tick(
            dg.build_schedule_context(scheduled_execution_time=datetime.now(UTC))
        )

    assert "FER_WEBHOOK" in (tick(tiny).skip_message or "")
    with Hook() as hook:
        told = telling(tiny, hook)
        assert tick(told).run_requests
        job = definitions_for(told).resolve_job_def("digest")
        assert job.execute_in_process(instance=instance).success
    (sent,) = hook.seen
    assert sent["kind"] == "digest"
    assert sent["counts"] == digest_of(tiny).counts
    assert sent["subject"] == digest_of(tiny).headline


def test_a_red_gate_of_a_run_is_told_with_its_asset_limit_fix_and_claims(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    artifact = tiny.store.current("hq_train_manifest")
    assert artifact
    frame = read_manifest(artifact.file("classification_manifest_hq_train.csv"))
    path = tiny.store.root / frame["image_path"][0]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(b"not an image")
    try:
        job = definitions_for(tiny).resolve_job_def("revalidate")
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    finally:
        path.write_bytes(data)
    assert not result.success
    (sent,) = failure_told(tiny, instance, result)
    assert sent["kind"] == "red_gate"
    assert "undecodable" in sent["gates"]
    assert {"hq_train_manifest", "classification_manifest"} <= set(sent["assets"])
    assert "teacher" in sent["claims"]
    (gate,) = (g for g in gates_of("hq_train_manifest") if g.rule == "undecodable")
    for word in ("hq_train_manifest failed gate 'undecodable': 1 (limit 0)", gate.fix, "teacher"):
        assert word in sent["text"]
    for asset in sent["assets"]:
        tiny.judge(Target(asset))


def test_a_claim_that_does_not_hold_is_named(tiny: Pipeline, instance: dg.DagsterInstance) -> None:
    held = tiny.claims_file().read_text()
    tiny.claims_file().write_text(
        "version: 2\ntitle: T\nclaims:\n  - id: wrong-rows\n    kind: number\n"
        '    sentence: "{value} rows."\n    asset: classification_manifest\n'
        "    file: clean_report.json\n    pointer: /manifest/rows\n    expected: 3\n"
    )
    try:
        pipeline = replace(tiny)
        job = definitions_for(pipeline).resolve_job_def("reporting")
        job = job.get_subset(asset_selection={asset_key("tiny", "report_claims")})
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        (sent,) = failure_told(pipeline, instance, result)
    finally:
        tiny.claims_file().write_text(held)
    assert (sent["kind"], sent["gates"]) == ("red_gate", ["all_grounded"])
    assert sent["claims"] == ["wrong-rows"]
    assert "the claim says 3" in sent["text"]


def test_a_run_that_fails_without_a_gate_is_told_with_its_fault(
    tiny: Pipeline, instance: dg.DagsterInstance
) -> None:
    job = definitions_for(tiny).resolve_job_def("teachers")
    job = job.get_subset(asset_selection={asset_key("tiny", "teacher_logits")})
    result = job.execute_in_process(instance=instance, partition_key="RN18", raise_on_error=False)
    (sent,) = failure_told(tiny, instance, result)
    assert (sent["kind"], sent["assets"]) == ("run_failed", ["teacher_logits"])
    assert sent["subject"] == "fer tiny: failed: teacher_logits[RN18]"
    assert "teacher[RN18]" in sent["text"]
    assert result.run_id in sent["text"]


def telling(pipeline: Pipeline, hook: Hook) -> Pipeline:
    """This pipeline with a webhook."""
    to = Notifiers(webhook=SecretStr(hook.url))
    return replace(pipeline, settings=pipeline.settings.model_copy(update={"notify": to}))


def failure_told(
    pipeline: Pipeline, instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult
) -> list[dict[str, Any]]:
    """What arrives at a webhook when the sensor sees that a run failed."""
    with Hook() as hook:
        sensor = definitions_for(telling(pipeline, hook)).resolve_sensor_def("run_failed")
        context = dg.build_run_status_sensor_context(
            sensor_name="run_failed",
            dagster_instance=instance,
            dagster_run=result.dagster_run,
            dagster_event=result.get_run_failure_event(),
        )
        sensor(context.for_run_failure())
    return hook.seen


def test_recordings_are_deleted_by_schedule_where_the_setting_says_so(
    tiny: Pipeline, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    frames = tmp_path / "demo" / "old" / "frames"
    frames.mkdir(parents=True)
    os.utime(frames, (0, 0))
    for days, kept in ((None, True), (7, False)):
        config = tiny.settings.config.model_copy(update={"keep_recordings_days": days})
        here = tiny.settings.model_copy(update={"config": config, "home": tmp_path})
        definitions = definitions_for(replace(tiny, settings=here))
        schedule = definitions.get_repository_def().get_schedule_def("nightly_retention")
        due = schedule.evaluate_tick(
            dg.build_schedule_context(scheduled_execution_time=datetime.now(UTC))
        )
        assert bool(due.run_requests) != kept
        job = definitions.resolve_job_def("retention")
        assert job.execute_in_process(instance=instance).success
        assert frames.exists() == kept
