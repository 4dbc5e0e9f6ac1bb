"""Everything from raw folders to the report, through Dagster, with tiny networks."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from filelock import FileLock
from typer.testing import CliRunner

from fer_assets.cli import app
from fer_assets.keys import asset_key
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.planning import StageFailed
from fer_assets.remote import adopt_run, pack_targets
from fer_assets.repository import definitions_for
from fer_assets.running import materialize
from fer_assets.show import trace_of
from fer_assets.stage import Stage
from fer_assets.stages import gates_of
from fer_assets.staleness import stale_reason, unjudged
from fer_ml.base.settings import settings
from fer_ml.bundles.bundle import read_card
from fer_ml.claims.model import read_claims
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify_folder
from fer_ml.metrics.classification import classification_metrics
from fer_ml.packed.runner import run_job
from fer_ml.recipes.profile import CANDIDATES, STUDENTS, Selection
from fer_ml.report.markdown import escape
from fer_ml.storage import job
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.looks import SETS_FILE, read_looks
from fer_ml.training import loop
from fer_ml.training.loop import ALONE
from tests.fer_assets.folders import start
from tests.refusals import refused

ROOT = Path(__file__).parent.parent.parent

runner = CliRunner()


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("tiny")
    with dg.DagsterInstance.get() as instance:
        done = materialize(pipeline, instance)
    assert len(done) == sum(pipeline.standard(target) for target in pipeline.targets())
    return pipeline


def current(pipeline: Pipeline, asset: str, partition: str | None = None) -> Artifact:
    artifact = pipeline.store.current(asset, partition)
    assert artifact is not None, asset
    return artifact


def declared(stage: Stage, name: str) -> str | None:
    """What the stage says of a file of its run folder."""
    if name in stage.holds:
        return stage.holds[name]
    patterns = ((re.sub(r"<\w+>", "*", file), text) for file, text in stage.holds.items())
    return next((text for file, text in patterns if fnmatch(name, file)), None)


def test_every_file_and_key_of_an_artifact_is_one_that_its_stage_declares(tiny: Pipeline) -> None:
    """``looks.json`` is the ledger's own, and docs/evaluation.md has the keys of metrics."""
    metrics = set(classification_metrics(np.array([0]), np.eye(7)[:1]))
    undeclared, seen = [], set()
    for target in filter(tiny.standard, tiny.targets()):
        artifact, stage = current(tiny, target.asset, target.partition), tiny.stage(target.asset)
        for name in artifact.record.files.keys() - {SETS_FILE}:
            text = declared(stage, name)
            if text is None:
                undeclared.append(f"{target.asset}: {name}")
                continue
            seen |= {(stage.module, file) for file, held in stage.holds.items() if held is text}
            held = json.loads(artifact.file(name).read_bytes()) if name.endswith(".json") else {}
            named = re.findall(r"`([\w*]+)`", text)
            known = {"schema_version"} | (metrics if "metrics" in text else set())
            undeclared += [
                f"{target.asset}: {name}: {key}"
                for key in (held if isinstance(held, dict) and "[card]" not in text else ())
                if key not in known and not any(fnmatch(key, pattern) for pattern in named)
            ]
    assert undeclared == []
    unwritten = [
        f"{stage.asset}: {file}"
        for stage in {
            tiny.stage(target.asset).module: tiny.stage(target.asset)
            for target in filter(tiny.standard, tiny.targets())
        }.values()
        for file, text in stage.holds.items()
        if not text.startswith("Only") and (stage.module, file) not in seen
    ]
    assert unwritten == []


def test_dagster_shows_every_artifact_by_its_content_hash(tiny: Pipeline) -> None:
    with dg.DagsterInstance.get() as instance:
        for target in filter(tiny.standard, tiny.targets()):
            wanted = dg.AssetRecordsFilter(
                asset_key("tiny", target.asset),
                asset_partitions=[target.partition] if target.partition else None,
            )
            (record,) = instance.fetch_materializations(wanted, limit=1).records
            assert record.asset_materialization is not None
            tags = record.asset_materialization.tags or {}
            assert (
                tags["dagster/data_version"] == current(tiny, target.asset, target.partition).sha256
            )


def test_a_second_run_does_no_work(tiny: Pipeline) -> None:
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs_count()
        assert materialize(tiny, instance) == []
        assert instance.get_runs_count() == runs


def test_the_same_seed_gives_the_same_hashes(tiny: Pipeline) -> None:
    assets = [
        Target("classification_manifest"),
        Target("hq_train_manifest"),
        Target("teacher", "RN18"),
        Target("teacher_logits", "RN18"),
        Target("ensemble"),
        Target("softlabels"),
        Target("student_ce"),
        Target("student_kd"),
        Target("student_dkd"),
        Target("benchmark"),
        Target("student_bundle"),
    ]
    for target in assets:
        before = current(tiny, target.asset, target.partition)
        tiny.make(target)
        tiny.judge(target)
        after = current(tiny, target.asset, target.partition)
        assert before.sha256 == after.sha256, target.label
        assert before.folder != after.folder


def test_metrics_are_those_of_the_saved_checkpoint(tiny: Pipeline) -> None:
    student = current(tiny, "student_kd")
    digest = student.record.files["best.pt"].sha256
    metrics = student.read_json("reliabilitymetrics.json")
    assert metrics["checkpoint_sha256"] == digest
    assert student.read_json("calibration.json")["checkpoint_sha256"] == digest
    assert metrics["n"] == metrics["raw"]["n"]
    assert metrics["split"] == "val"
    assert student.record.splits == {"checkpoint": "val", "temperature": "calib"}


def test_no_choice_ever_saw_a_test_split(tiny: Pipeline) -> None:
    for target in filter(tiny.standard, tiny.targets()):
        splits = current(tiny, target.asset, target.partition).record.splits
        assert "test" not in splits.values(), target.label


def test_looks_are_noted_and_a_decision_after_them_is_marked(tiny: Pipeline) -> None:
    looks = read_looks(tiny.store.root.parent)[:5]
    shown = {"benchmark", "robustness", "error_analysis", "report_claims", "report"}
    assert looks[0].asset == "benchmark" and {look.asset for look in looks} == shown
    assert all(look.sets == looks[0].sets and look.plan is None for look in looks)
    cells = current(tiny, "benchmark").read_json("benchmark.json")["entries"]["student_kd"]
    assert {cell["looked_before"] for cell in cells.values()} == {None}
    faces = current(tiny, "benchmark").read_json(SETS_FILE)["eval_only"]
    assert tiny.job(Target("benchmark"))[0].looked_before("eval_only_manifest", faces) is None
    update = {"selection": Selection(flips_gain=0.2)}
    other = replace(tiny, profile=tiny.profile.model_copy(update=update))
    mark = other.job(Target("benchmark"))[0].looked_before("eval_only_manifest", faces)
    assert mark == {"since": looks[0].at, "decided": ["student_selection"]}
    told = replace(
        tiny, profile=tiny.profile.model_copy(update={"looked_at": {"eval_only": "2020-01-02"}})
    )
    mark = told.job(Target("benchmark"))[0].looked_before("eval_only_manifest", faces)
    assert mark == {"since": "2020-01-02", "decided": ["the profile"]}


def test_what_is_deployed_is_what_the_dual_gate_saw(tiny: Pipeline) -> None:
    selection = current(tiny, "student_selection")
    held = selection.read_json("selection.json")
    name, bundle = held["selected"], current(tiny, "student_bundle")
    assert held["sha256"] == current(tiny, name).sha256
    candidates = current(tiny, "candidate_bundles")
    for file in ("model.onnx", "parity.json"):
        assert bundle.record.files[file].sha256 == candidates.record.files[f"{name}/{file}"].sha256
    played = current(tiny, "candidate_sessions").read_json("candidate_sessions.json")["candidates"]
    for student in CANDIDATES:
        assert played[student]["model_sha256"] == (
            candidates.record.files[f"{student}/model.onnx"].sha256
        )
    deployed = read_card(bundle.folder)
    candidate = read_card(candidates.folder / name)
    assert deployed.model_copy(update={"metrics": {}}) == candidate
    sets = {"hq_train_val", "test_all_sources", "eval_only"}
    alone = {f"{name}.deduplicated" for name in sets}
    assert set(deployed.metrics) == sets | alone | {"robustness"}
    # The demo shows what the student showed before it was deployed.
    kpis = current(tiny, "demo_kpis").read_json("demo_kpis.json")
    assert kpis["macro_f1_present_stabilised"] == played[name]["macro_f1_stabilised"]
    assert kpis["flips_per_minute_stabilised"] == played[name]["flips_per_minute_stabilised"]


def test_a_limit_of_the_dual_gate_makes_only_the_selection_stale(tiny: Pipeline) -> None:
    changed = Selection(flips_gain=0.2)
    other = replace(tiny, profile=tiny.profile.model_copy(update={"selection": changed}))
    raw = {s.name: tiny.raw_input(s.name).sha256 for s in tiny.profile.sources}
    made = [target for target in other.targets() if other.standard(target)]
    changed_by = [t.asset for t in made if stale_reason(other, t, raw) == "its recipe changed"]
    assert changed_by == ["student_selection"]


TRAININGS = {
    "teacher[RN18]",
    "teacher_fold[RN18_1]",
    "teacher_fold[RN18_2]",
    *(f"student_{name}" for name in STUDENTS),
}


@pytest.mark.parametrize(
    ("part", "changes", "void"),
    [
        (None, {"floor_macro_f1": 0.99}, {*TRAININGS, "benchmark"}),
        ("demo", {"p95_limit_ms": 1.0}, {"demo_kpis"}),
        ("selection", {"flips_gain": 0.2}, {"demo_kpis"}),
        (None, {"seed": 7}, set()),
    ],
)
def test_a_changed_limit_voids_exactly_the_verdicts_that_were_made_by_it(
    tiny: Pipeline, part: str | None, changes: dict[str, Any], void: set[str]
) -> None:
    update = (
        changes if part is None else {part: getattr(tiny.profile, part).model_copy(update=changes)}
    )
    other = replace(tiny, profile=tiny.profile.model_copy(update=update))
    targets = [target for target in tiny.targets() if tiny.standard(target)]
    assert not any(unjudged(tiny, target) for target in targets)
    assert {target.label for target in targets if unjudged(other, target)} == void
    for target in targets:
        if target.label in void:
            with refused("gate-not-judged"):
                other.store.require(target.asset, target.partition)


def test_what_fails_by_a_changed_limit_is_refused_from_every_door_and_not_made_again(
    tiny: Pipeline,
) -> None:
    file = tiny.settings.project / "fer.toml"
    text = file.read_text()
    held = {path.name for path in tiny.store.runs()}
    file.write_text(text.replace("floor_macro_f1 = 0.0", "floor_macro_f1 = 0.99"))
    settings.cache_clear()
    try:
        strict = Pipeline.open("tiny")
        raw = {s.name: tiny.raw_input(s.name).sha256 for s in tiny.profile.sources}
        assert stale_reason(strict, Target("teacher", "RN18"), raw) is None
        with refused("gate-not-judged"):
            strict.job(Target("teacher_logits", "RN18"))
        command = start(tiny.settings.project, "trace", "teacher", "-p", "tiny")
        told, _ = command.communicate()
        assert command.returncode == 2, told
        assert told.startswith("stale"), told
        shown = definitions_for(strict).resolve_implicit_global_asset_job_def()
        with dg.DagsterInstance.get() as instance:
            job = shown.get_subset(asset_selection={asset_key("tiny", "student_kd")})
            assert not job.execute_in_process(instance=instance, raise_on_error=False).success
            with pytest.raises(StageFailed) as caught:
                materialize(strict, instance)
        assert caught.value.code == "gate-failed" and "above_floor" in caught.value.what
        assert Target("teacher", "RN18") in caught.value.failures.faults
        assert {path.name for path in tiny.store.runs()} == held, "nothing was made again"
    finally:
        file.write_text(text)
        settings.cache_clear()
    with dg.DagsterInstance.get() as instance:
        materialize(tiny, instance)
        assert materialize(tiny, instance) == []
    assert {path.name for path in tiny.store.runs()} == held


def test_claims_are_grounded_and_lead_to_the_raw_folders(tiny: Pipeline) -> None:
    every = {"affectnet_full_balanced", "rafdb_basic", "expw_full"}
    for claim in read_claims(tiny.claims_file()).claims:
        traced = trace_of(tiny, claim.id)
        assert traced.claim is not None
        assert traced.claim.status == "grounded", traced.claim.reason
        assert traced.sound
        roots = {Path(node.item.root).name for node in traced.steps if node.item.root}
        assert roots == ({"expw_full"} if claim.id == "expw" else every)


ABOVE_SOFTLABELS = {"accuracy", "settings", "formula", "compared"}


@pytest.mark.parametrize(
    ("asset", "partition", "file", "turned"),
    [
        ("teacher", "RN18", "best.pt", {"teacher", *ABOVE_SOFTLABELS}),
        ("softlabels", None, "softlabels.npz", ABOVE_SOFTLABELS),
        ("benchmark", None, "predictions/student_ce__eval_only.csv", {"accuracy", "compared"}),
        ("manifest/rafdb_basic", None, "thumbs.npy", {"rows", "teacher", *ABOVE_SOFTLABELS}),
        ("student_bundle", None, "model.onnx", set()),
    ],
)
def test_a_flipped_byte_turns_exactly_the_claims_that_rest_on_it(
    tiny: Pipeline, asset: str, partition: str | None, file: str, turned: set[str]
) -> None:
    path = current(tiny, asset, partition).file(file)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        found = verify_folder(tiny.store.root, tiny.claims_file(), tiny.fingerprints())
    finally:
        path.write_bytes(data)
    assert {c.claim.id for c in found.claims if c.status == "drifted"} == turned
    assert {c.claim.id for c in found.claims if c.status not in ("drifted", "grounded")} == set()


def test_a_folder_that_was_handed_over_without_its_receipts_is_not_grounded(
    tiny: Pipeline, tmp_path: Path
) -> None:
    """Whoever gets it does not know its profile; the gates are those of the assets' names."""
    handed = tmp_path / "tiny"
    shutil.copytree(tiny.store.root, handed, symlinks=True)
    assert runner.invoke(app, ["claims", "verify", str(handed)]).exit_code == 0
    for receipts in list(handed.rglob("receipts")):
        shutil.rmtree(receipts)
    found = runner.invoke(app, ["claims", "verify", str(handed)])
    assert found.exit_code == 2, found.output


def test_what_the_profile_does_not_have_any_more_is_not_sound(tiny: Pipeline) -> None:
    soft = tiny.profile.softlabels.model_copy(update={"folds": 0})
    other = replace(tiny, profile=tiny.profile.model_copy(update={"softlabels": soft}))
    assert "teacher_fold" not in other.stages
    fold = other.store.current("teacher_fold", "RN18_1")
    assert fold is not None
    assert Tracer(other.store).trace(fold).problem is not None
    with refused("gate-not-judged"):
        other.store.require("teacher_fold", "RN18_1")


def test_a_flipped_byte_of_a_raw_image_turns_what_rests_on_its_source(tiny: Pipeline) -> None:
    image = next((tiny.store.root / "drawn/raw/affectnet_full_balanced").rglob("*.jpg"))
    data, times = image.read_bytes(), image.stat()
    image.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        found = verify_folder(tiny.store.root, tiny.claims_file(), tiny.fingerprints())
    finally:
        image.write_bytes(data)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert {c.claim.id for c in found.claims if c.status == "stale"} == {
        claim.claim.id for claim in found.claims if claim.claim.id != "expw"
    }
    assert verify_folder(tiny.store.root, tiny.claims_file(), tiny.fingerprints()).green


def test_the_folder_verifies_by_the_claims_that_it_keeps(tiny: Pipeline) -> None:
    found = verify_folder(tiny.store.root)
    assert found.green and len(found.claims) == 7
    told = current(tiny, "report_claims").read_json("claims.json")
    assert [c["status"] for c in told["claims"]] == ["grounded"] * 7
    run = current(tiny, "student_kd")
    wanted = {"asset": run.key, "sha256": run.sha256}
    ids = [claim["id"] for claim in told["claims"] if wanted in claim["rests_on"]]
    assert ids == ["accuracy", "settings", "formula", "compared"]


def test_a_changed_raw_folder_is_stale_from_there_on(tiny: Pipeline) -> None:
    image = next((tiny.store.root / "drawn/raw/expw_full/origin").glob("*.jpg"))
    extra = image.with_name("extra.jpg")
    extra.write_bytes(image.read_bytes())
    try:
        raw = {s.name: tiny.raw_input(s.name).sha256 for s in tiny.profile.sources}
        reason = stale_reason(tiny, Target("manifest/expw_full"), raw)
        assert reason == "changed input: raw/expw_full"
        assert stale_reason(tiny, Target("manifest/affectnet_full_balanced"), raw) is None
        assert not trace_of(tiny, "rows").sound
    finally:
        extra.unlink()


def test_the_report_holds_each_claims_sentence(tiny: Pipeline) -> None:
    report = current(tiny, "report")
    text = report.file("report.md").read_text()
    html = report.file("report.html").read_text()
    for claim in current(tiny, "report_claims").read_json("claims.json")["claims"]:
        assert escape(claim["sentence"]) in text
        assert claim["id"] in html
    assert "drawn, not photographed" in text
    assert report.file("report.pdf").read_bytes().startswith(b"%PDF-")
    cited = {"citations_listed": None, "references_cited": None}  # It has no references.
    assert {name: held.passed for name, held in report.receipts().items()} == {
        **dict.fromkeys((gate.rule for gate in gates_of("report")), True),
        **cited,
    }


def test_the_users_own_template_decides_what_the_report_rests_on(tiny: Pipeline) -> None:
    guide = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    template = guide.split("```jinja\n")[1].split("```")[0]
    for ours, theirs in (("manifest-rows", "rows"), ("ce-accuracy", "accuracy")):
        template = template.replace(ours, theirs)
    # The tests above made some of its inputs anew.
    before = tiny.make(Target("report"))
    own = tiny.settings.project / "report" / "tiny.md.j2"
    own.parent.mkdir()
    try:
        own.write_text(template, encoding="utf-8")
        pipeline = Pipeline.open("tiny")
        with dg.DagsterInstance.get() as instance:
            (made,) = materialize(pipeline, instance)
        assert made.target == Target("report")
        inputs = {item.key for item in made.artifact.record.inputs}
        assert {"teacher[RN18]", "report_claims", "benchmark"} <= inputs
        assert "demo_kpis" not in inputs
        own.write_text(template + "\nIt is right on 0.99.\n", encoding="utf-8")
        pipeline.make(Target("report"))
        red = [o.rule for o in pipeline.judge(Target("report")) if o.passed is False]
        assert red[0] == "numbers_covered"
    finally:
        own.unlink()
        own.parent.rmdir()
    with dg.DagsterInstance.get() as instance:
        (made,) = materialize(Pipeline.open("tiny"), instance)
    assert made.artifact.sha256 == before.sha256


def test_a_lost_event_log_is_told_again(tiny: Pipeline) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(tiny, instance) == []
        event = instance.get_latest_materialization_event(asset_key("tiny", "student_bundle"))
        assert event is not None


def test_what_is_told_later_has_the_time_of_its_work(tiny: Pipeline) -> None:
    """A new ``dagster_home`` beside a finished artifact root."""
    key = asset_key("tiny", "student_bundle")
    bundle = current(tiny, "student_bundle")
    with dg.DagsterInstance.ephemeral() as instance:
        assert materialize(tiny, instance) == []
        event = instance.get_latest_materialization_event(key)
        assert event and event.timestamp == bundle.record.made_at.timestamp()
        for receipt in bundle.receipts().values():
            if receipt.passed is None:
                continue
            (judged,) = instance.event_log_storage.get_asset_check_execution_history(
                dg.AssetCheckKey(key, receipt.rule), limit=9
            )
            checked = datetime.fromisoformat(receipt.checked_at).timestamp()
            assert judged.event and judged.event.timestamp == checked >= event.timestamp
        # Of something else, told later: what is the latest must not stand below it.
        other = dg.AssetMaterialization(key, tags={DATA_VERSION_TAG: "other"})
        instance.report_runless_asset_event(other)
        assert materialize(tiny, instance) == []
        later, told = instance.fetch_materializations(key, limit=2, ascending=False).records[::-1]
    assert told.asset_materialization and told.asset_materialization.tags
    assert told.asset_materialization.tags[DATA_VERSION_TAG] == bundle.sha256
    assert told.timestamp > later.timestamp


def test_what_dagster_shows_of_something_else_is_told_again_each_time(tiny: Pipeline) -> None:
    teacher = current(tiny, "teacher", "RN18")
    key = asset_key("tiny", "teacher")
    with dg.DagsterInstance.get() as instance:
        for _ in range(2):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(key, partition="RN18", tags={DATA_VERSION_TAG: "other"})
            )
            assert materialize(tiny, instance) == []
            shown = instance.get_latest_materialization_event(key)
            assert shown is not None and shown.asset_materialization is not None
            assert shown.asset_materialization.tags[DATA_VERSION_TAG] == teacher.sha256


def test_the_job_for_the_whole_does_what_the_command_does(tiny: Pipeline) -> None:
    job = definitions_for(tiny).resolve_job_def("everything")
    with dg.DagsterInstance.get() as instance:
        done = job.execute_in_process(instance=instance)
        assert done.success
        assert materialize(tiny, instance) == []


def test_an_experiment_is_a_partition_made_on_request(tiny: Pipeline) -> None:
    target = Target("student_experiment", "negative")
    assert tiny.store.current(target.asset, target.partition) is None, "not made with the rest"
    with dg.DagsterInstance.get() as instance:
        assert "negative" in instance.get_dynamic_partitions("tiny/student_experiment")
        (done,) = materialize(tiny, instance, select=lambda t: t == target)
        assert done.target == target
        event = instance.get_latest_materialization_event(asset_key("tiny", "student_experiment"))
    assert event is not None and event.asset_materialization is not None
    assert event.asset_materialization.partition == "negative"
    run = current(tiny, "student_experiment", "negative")
    history = run.read_json("history.json")
    assert history[0]["train"]["negative_applied"] == 1.0
    assert run.receipts()["init_as_promised"].passed


def test_an_experiment_that_no_recipe_names_is_refused(tiny: Pipeline) -> None:
    with refused("not-in-profile") as caught:
        tiny.make(Target("student_experiment", "other"))
    assert "negative" in str(caught.value.allowed).split(", ")


def test_students_that_trained_elsewhere_are_taken_in_by_hash(
    tiny: Pipeline, tmp_path: Path
) -> None:
    """Packed together, trained from the folder alone, adopted one after the other."""
    targets = [Target("student_ce"), Target("student_kd"), Target("student_dkd")]
    before = {t.asset: current(tiny, t.asset) for t in targets}
    pack_targets(tiny, targets, tmp_path / "packed")
    made = run_job(tmp_path / "packed", tmp_path / "runs", ALONE)
    assert [run.name for run in made] == ["student_ce", "student_kd", "student_dkd"]
    with dg.DagsterInstance.get() as instance:
        for run, target in zip(made, targets, strict=True):
            adopted = adopt_run(tiny, run, instance)
            assert adopted.key == target.asset
            assert adopted.sha256 == before[target.asset].sha256, "as if it had trained here"
            tiny.store.require(target.asset)
    (made[0] / "best.pt").write_bytes((made[1] / "best.pt").read_bytes())
    with dg.DagsterInstance.get() as instance:
        with refused("prediction-mismatch"):
            adopt_run(tiny, made[0], instance)
        told = json.loads((made[1] / "job.json").read_text())
        told["about"]["student_kd"]["inputs"]["softlabels"] = "0" * 64
        (made[1] / "job.json").write_text(json.dumps(told))
        with refused("origin-mismatch"):
            adopt_run(tiny, made[1], instance)
    assert current(tiny, "student_ce").sha256 == before["student_ce"].sha256


def test_from_the_teachers_to_a_student_in_one_packed_job(tiny: Pipeline, tmp_path: Path) -> None:
    """Nothing but the folder: trainings, logits, soft labels, a student; then back by hash."""
    targets = [
        Target("teacher", "RN18"),
        Target("teacher_fold", "RN18_1"),
        Target("teacher_fold", "RN18_2"),
        Target("teacher_logits", "RN18"),
        Target("softlabels"),
        Target("student_ce"),
        Target("student_kd"),
    ]
    before = {t.label: current(tiny, t.asset, t.partition).sha256 for t in targets}
    pack_targets(tiny, targets, tmp_path / "packed")
    made = run_job(tmp_path / "packed", tmp_path / "runs", ALONE)
    assert len(made) == len(targets)
    logits = json.loads((made[3] / "logits.json").read_text())
    assert [fold["checkpoint_sha256"] for fold in logits["folds"]] == [
        current(tiny, "teacher_fold", f"RN18_{n}").record.files["best.pt"].sha256 for n in (1, 2)
    ]
    with dg.DagsterInstance.get() as instance:
        for run, target in zip(made, targets, strict=True):
            if target.asset == "softlabels":
                with refused("not-adoptable"):
                    adopt_run(tiny, run, instance)
                continue
            adopted = adopt_run(tiny, run, instance)
            assert adopted.sha256 == before[target.label], target.label
        soft = tmp_path / "runs" / "softlabels" / "softlabels.npz"
        with np.load(soft) as held:
            changed = {name: held[name] for name in held.files}
        changed["logits"] = changed["logits"] + 1
        np.savez(soft, **changed)
        with refused("soft-labels-mismatch"):
            adopt_run(tiny, made[-1], instance)
        (made[3] / "logits.npy").write_bytes((made[3] / "logits.npy").read_bytes()[:-2] + b"zz")
        told = logits | {"checkpoint_sha256": "0" * 64}
        (made[3] / "logits.json").write_text(json.dumps(told))
        with refused("checkpoint-mismatch"):
            adopt_run(tiny, made[3], instance)


def test_folds_were_left_out_and_views_are_stored(tiny: Pipeline) -> None:
    soft = current(tiny, "softlabels")
    hashes = soft.read_json("hash_manifest.json")
    assert hashes["out_of_fold"] and hashes["views"]["count"] == 2
    with np.load(soft.file("softlabels.npz")) as held:
        folds, shape = held["fold"], held["logits"].shape
    assert shape[1:] == (2, 7)
    for number, name in enumerate(("RN18_1", "RN18_2")):
        trained = current(tiny, "teacher_fold", name).record.summary["rows"]
        assert trained == (folds != number).sum()


def test_what_is_no_step_cannot_be_packed(tiny: Pipeline, tmp_path: Path) -> None:
    with refused("not-packable"):
        pack_targets(tiny, [Target("benchmark")], tmp_path / "packed")
    with refused("missing-step"):
        pack_targets(tiny, [Target("softlabels")], tmp_path / "packed")


def test_a_stopped_training_goes_on_in_the_next_run(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = current(tiny, "student_ce")
    steps: list[int] = []
    original = loop._Run._step

    class Cancelled(BaseException):
        pass

    def step(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        steps.append(self.progress.step)
        if len(steps) == 2:
            self._save()
            raise Cancelled

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(Cancelled):
        tiny.make(Target("student_ce"))
    assert current(tiny, "student_ce").folder == whole.folder
    again = tiny.make(Target("student_ce"))
    assert again.sha256 == whole.sha256
    assert steps[2] == 3, "it did not start again"
    assert not list((tiny.store.root / "unfinished").glob("*/*/*"))


@pytest.mark.fault(
    "a step outlives its killed run beside the next one",
    "A lock lets one process at a time work on a training.",
)
def test_two_processes_never_train_the_same(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE", 0.1)
    before = current(tiny, "student_ce")
    lock = FileLock(tiny.store.root / "unfinished" / ".student_ce.lock")
    with lock, refused("work-in-progress"):
        tiny.make(Target("student_ce"))
    assert current(tiny, "student_ce").folder == before.folder
