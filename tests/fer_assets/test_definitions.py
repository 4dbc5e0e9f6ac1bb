"""The graph that Dagster shows: loadable, complete, and unchanged unless on purpose."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from fer_assets import definitions as location
from fer_assets.keys import asset_key, asset_of
from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.repository import definitions_for, opened
from fer_assets.stages import gates_of
from fer_ml.base.reading import sha256_file
from tests.refusals import refused

SNAPSHOT = Path(__file__).with_name("graph.json")


@pytest.fixture(scope="module")
def definitions(project: Callable[[str], Pipeline]) -> dg.Definitions:
    return definitions_for(project("sample"))


def test_each_profile_is_a_repository_of_the_code_location(
    project: Callable[[str], Pipeline],
) -> None:
    project("tiny")
    opened.cache_clear()
    assert [name for name, _ in inspect.getmembers(location)] == ["tiny"], "the default"
    for profile in ("tiny", "sample"):
        repository = getattr(location, profile)
        assert isinstance(repository, dg.RepositoryDefinition) and repository.name == profile
        keys = repository.asset_graph.get_all_asset_keys()
        assert keys and {key.path[0] for key in keys} == {profile}
        repository.load_all_definitions()
    for other in ("logs", "dg", "opened"):
        with refused("unknown-profile"):
            getattr(location, other)
    opened.cache_clear()


def graph_of(definitions: dg.Definitions) -> dict[str, dict[str, object]]:
    graph = definitions.resolve_asset_graph()
    return {
        asset_of(key): {
            "deps": sorted(asset_of(parent) for parent in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "partitions": bool(graph.get(key).partitions_def),
            # What follows is the hash of the profile's part.
            "code_version": (graph.get(key).code_version or "").partition("-")[0] or None,
        }
        for key in sorted(graph.get_all_asset_keys())
    }


def test_the_definitions_load(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_the_graph_is_the_one_that_was_reviewed(definitions: dg.Definitions) -> None:
    # After a wanted change, delete graph.json and run this test twice.
    found = graph_of(definitions)
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{SNAPSHOT.name} was written; look at it and run again")
    assert found == json.loads(SNAPSHOT.read_text())


def test_an_asset_without_a_partition_is_not_shown(project: Callable[[str], Pipeline]) -> None:
    """Else the button that makes everything asks for one."""
    pipeline = project("tiny")
    shown = definitions_for(pipeline).resolve_asset_graph().get_all_asset_keys()
    assert not {"adopted", "external_model"} & {asset_of(key) for key in shown}
    with pipeline.store.begin("adopted", "one"):
        pass
    shown = definitions_for(pipeline).resolve_asset_graph().get_all_asset_keys()
    assert asset_key("tiny", "adopted") in shown


def test_steps_go_to_ray_where_it_is_the_engine(
    project: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = pytest.importorskip("dagster_ray.configs")
    for name, value in (("ENGINE", "ray"), ("DEVICE", "cuda"), ("WEBHOOK", "https://user:pw@h/")):
        monkeypatch.setenv(f"FER_{name}", value)
    pipeline = project("sample")
    job = definitions_for(pipeline).resolve_job_def("students")
    assert job.executor_def.name == "ray"
    asked = configs.RayExecutionConfig.from_tags(job.get_node_named("sample__student_ce").tags)
    assert asked.num_gpus == 1
    # Whoever reads the cluster's dashboard reads them.
    assert "pw" not in str(pipeline.settings.environment())


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.kinds or any(tag.startswith("dagster/kind/") for tag in node.tags), key
        assert node.group_name != "default", key
        if node.is_materializable:
            assert node.owners, key


def test_gates_are_blocking_checks_by_partition_where_the_asset_has_them(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    keys = {(asset_of(k.asset_key), k.name): k for k in graph.asset_check_keys}
    for asset in ("teacher", "softlabels", "student_dkd", "student_bundle", "hq_train_manifest"):
        for gate in gates_of(asset):
            node = graph.get(keys[(asset, gate.rule)])
            assert node.blocking == gate.blocking
            assert (node.partitions_def is not None) == (asset == "teacher")


def test_a_job_for_each_stage_is_there(definitions: dg.Definitions) -> None:
    jobs = {job.name for job in definitions.resolve_all_job_defs()}
    assert jobs >= {
        "everything",
        "data",
        "teachers",
        "distillation",
        "students",
        "evaluation",
        "deployment",
        "reporting",
        "revalidate",
        "revalidate_fully",
        "digest",
    }


def test_a_comparison_needs_exactly_its_experiments(project: Callable[[str], Pipeline]) -> None:
    pipeline = project("sample")
    target = Target("comparison/distillation")
    names = ("ce", "ce_2", "ce_3", "kd", "kd_2", "kd_3")
    assert [need.label for need in pipeline.needed(target)] == [
        *(f"student_experiment[{name}]" for name in names),
        "test_all_sources_manifest",
    ]
    assert not pipeline.standard(target)


def test_what_the_report_rests_on_is_made_with_it(project: Callable[[str], Pipeline]) -> None:
    pipeline = project("ferplus")
    experiments = {t.partition for t in pipeline.targets() if t.asset == "student_experiment"}
    made = {p for p in experiments if pipeline.standard(Target("student_experiment", p))}
    arms = [arm for held in pipeline.profile.comparisons.values() for arm in held.arms.values()]
    assert made == {name for arm in arms for name in arm} & experiments
    assert made == experiments, "of each, which no report would rest on otherwise"
    assert pipeline.standard(Target("comparison/distillation"))


def test_a_model_from_elsewhere_is_known_by_its_bytes(
    project: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    pipeline = project("sample")
    path = tmp_path / "any.onnx"
    profile = pipeline.profile.model_copy(update={"models": {"any": str(path)}})
    pipeline = replace(pipeline, profile=profile)
    target = Target("external_model", "any")
    assert pipeline.recipe(target)["files"] is None
    path.write_bytes(b"1")
    assert pipeline.recipe(target)["files"] == {"model.onnx": sha256_file(path)}
    assert target in pipeline.needed(Target("benchmark"))
    with refused("not-in-profile"):
        pipeline.recipe(Target("external_model", "other"))


def code_versions(pipeline: Pipeline) -> dict[str, str | None]:
    graph = definitions_for(pipeline).resolve_asset_graph()
    keys = [key for key in graph.get_all_asset_keys() if key.path[1] != "raw"]
    return {asset_of(key): graph.get(key).code_version for key in keys}


def test_a_changed_profile_shows_as_changed_code(project: Callable[[str], Pipeline]) -> None:
    before = project("tiny")
    kd = replace(before.profile.students["kd"], epochs=before.profile.students["kd"].epochs + 1)
    students = {**before.profile.students, "kd": kd}
    profile = before.profile.model_copy(update={"students": students, "floor_macro_f1": 0.5})
    old, new = code_versions(before), code_versions(replace(before, profile=profile))
    assert {asset for asset in old if old[asset] != new[asset]} == {"student_kd"}


def test_a_partition_is_made_of_the_partitions_that_its_stage_names(
    project: Callable[[str], Pipeline],
) -> None:
    graph = definitions_for(project("tiny")).resolve_asset_graph()

    def mapping(asset: str, need: str) -> object:
        return graph.get(asset_key("tiny", asset)).partition_mappings.get(asset_key("tiny", need))

    assert isinstance(mapping("teacher_logits", "teacher"), dg.IdentityPartitionMapping)
    assert isinstance(mapping("ensemble", "teacher_logits"), dg.AllPartitionMapping)
    folds = mapping("teacher_logits", "teacher_fold")
    assert isinstance(folds, dg.StaticPartitionMapping)
    assert isinstance(mapping("report_claims", "teacher"), dg.SpecificPartitionsPartitionMapping)
