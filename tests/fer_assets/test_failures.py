"""What fails stops what rests on it and nothing else, and the end says how to go on."""

import errno
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.lineage import Target
from fer_assets.pipeline import Pipeline
from fer_assets.planning import StageFailed
from fer_assets.repository import definitions_for
from fer_assets.running import materialize
from fer_ml.base.reading import sha256_file
from fer_ml.base.settings import settings
from tests.fer_assets.folders import environment, make_project, start

SELECT = "manifests,teacher[RN18]"
#: Its raw folder is not there.
GONE = Target("manifest/gone")
#: One class is missing in what is trained on, which is a gate that blocks.
RED = Target("hq_train_manifest")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = make_project(tmp_path_factory.mktemp("project") / "here")
    patch = pytest.MonkeyPatch()
    for name, value in environment(folder).items():
        patch.setenv(name, value)
    patch.setenv("DAGSTER_HOME", str(folder / "dagster_home"))
    settings.cache_clear()
    yield folder
    patch.undo()
    settings.cache_clear()


def make(pipeline: Pipeline, select: str = SELECT, *, force: bool = False) -> StageFailed:
    with dg.DagsterInstance.get() as instance, pytest.raises(StageFailed) as caught:
        materialize(pipeline, instance, select=pipeline.named(select), force=force)
    return caught.value


def labels(targets: object) -> list[str]:
    return [target.label for target in targets]  # type: ignore[attr-defined]


def test_a_missing_raw_folder_stops_what_is_made_of_it_alone(project: Path) -> None:
    error = make(Pipeline.open("red"))
    assert labels(made.target for made in error.done) == ["manifest/a", "manifest/b"]
    assert list(error.failures.faults) == [GONE]
    assert "no data root" in str(error.failures.faults[GONE]) == str(error)
    lost = {target.label: labels(below) for target, below in error.failures.lost.items()}
    assert set(lost) == {
        "classification_manifest",
        "hq_train_manifest",
        "eval_only_manifest",
        "test_all_sources_manifest",
        "manifest_validation",
        "label_review",
        "teacher[RN18]",
    }
    assert set(map(tuple, lost.values())) == {("manifest/gone",)}


def test_a_source_that_is_not_asked_for_is_not_missed(project: Path) -> None:
    pipeline = Pipeline.open("red")
    with dg.DagsterInstance.get() as instance:
        assert materialize(pipeline, instance, select=pipeline.named("manifest/a")) == []


def test_a_red_gate_stops_what_rests_on_it_alone(project: Path) -> None:
    toml = project / "fer.toml"
    text = toml.read_text()
    toml.write_text(text.replace('  { name = "gone", adapter = "class_folders" },\n', ""))
    settings.cache_clear()
    pipeline = Pipeline.open("red")
    error = make(pipeline)
    assert list(error.failures.faults) == [RED]
    assert "failed gate 'class_coverage'" in str(error)
    assert set(labels(error.failures.lost)) == {"manifest_validation", "teacher[RN18]"}
    assert set(labels(made.target for made in error.done)) == {
        "classification_manifest",
        "eval_only_manifest",
        "test_all_sources_manifest",
        "label_review",
    }
    # Again: it is judged again, the rest stays, and nothing new is made.
    again = make(pipeline)
    assert (list(again.failures.faults), again.done) == ([RED], [])
    assert set(again.failures.lost) == set(error.failures.lost)


def test_what_cannot_be_looked_at_has_failed(project: Path) -> None:
    pipeline = Pipeline.open("red")
    pointer = pipeline.store.home("label_review") / "current.json"
    held = pointer.read_text()
    pointer.write_text("{")
    error = make(pipeline)
    assert set(labels(error.failures.faults)) == {"hq_train_manifest", "label_review"}
    pointer.write_text(held)


def test_bytes_that_cannot_be_read_fail_their_asset_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(path: Path) -> str:
        if "label_review" in path.parts:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return sha256_file(path)

    monkeypatch.setattr("fer_ml.storage.artifact.sha256_file", unreadable)
    error = make(Pipeline.open("red"))
    assert (set(labels(error.failures.faults)), error.done) == (
        {"hq_train_manifest", "label_review"},
        [],
    )
    fault = error.failures.faults[Target("label_review")]
    assert "Input/output error" in fault.what and "label_review" in str(fault.where)


def test_the_job_of_everything_fails_after_the_rest_was_made(project: Path) -> None:
    """What rests on nothing red is made again although a red one comes before it."""
    pipeline = Pipeline.open("red")
    before = {run.name for run in pipeline.store.runs("label_review")}
    job = definitions_for(pipeline).resolve_job_def("everything")
    config = {"select": "manifests", "force": True}
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"make_everything": {"config": config}}},
        )
        assert not result.success
        (failure,) = (e for e in result.all_events if e.event_type_value == "STEP_FAILURE")
        told = failure.step_failure_data.user_failure_data
        assert told is not None
        assert "hq_train_manifest failed gate 'class_coverage'" in str(told.description)
        with pytest.raises(dg.Failure):
            job.execute_in_process(
                instance=instance, run_config={"ops": {"make_everything": {"config": config}}}
            )
    assert {run.name for run in pipeline.store.runs("label_review")} > before


def test_the_command_says_what_failed_what_was_not_made_and_how_to_go_on(project: Path) -> None:
    process = start(project, "materialize", "-p", "red", "--select", SELECT)
    told, _ = process.communicate()
    assert process.returncode == 1, told
    assert "Traceback" not in told
    assert "failed gate 'class_coverage'" in told and "failed: hq_train_manifest" in told
    assert "rests on hq_train_manifest: manifest_validation, teacher[RN18]" in told
    assert told.rstrip().endswith(f"fer materialize -p red --select '{SELECT}'")
    # What was forced and made is not to be forced again.
    process = start(project, "materialize", "-p", "red", "--select", "manifests", "--force")
    told, _ = process.communicate()
    assert process.returncode == 1
    assert "manifest/a " in told and "label_review " in told, "the table of what was made"
    last = told.rstrip().splitlines()[-1]
    assert last.endswith(
        "fer materialize -p red --select hq_train_manifest,manifest_validation --force"
    )


@pytest.mark.parametrize(
    ("select", "words"),
    [
        ("teacher[B3]", ("code: inputs-not-ready", "--select '+teacher[B3]'")),
        (
            "student_ce,teacher[B3]",
            ("code: inputs-not-ready", "--select '+student_ce,+teacher[B3]'"),
        ),
        ("raw/ferplus", ("code: selects-raw", "manifest/ferplus")),
        ("group:nobody", ("code: empty-selection", "teachers")),
        ("teacher or", ("code: invalid-selection",)),
        ("", ("code: empty-selection",)),
    ],
)
@pytest.mark.parametrize("command", ["materialize", "pack"])
def test_a_selection_is_refused_before_anything_is_done(
    tmp_path: Path, command: str, select: str, words: tuple[str, ...]
) -> None:
    folder = make_project(tmp_path / "here")
    given = ["--select", select] if command == "materialize" else [select, str(tmp_path / "new")]
    process = start(folder, command, "-p", "sample", *given)
    told, _ = process.communicate()
    assert process.returncode == 1, told
    assert told.startswith("error: ") and "Traceback" not in told
    for word in words:
        assert word in told
    assert not (folder / "outputs").exists(), "nothing was drawn"
    assert [path.name for path in (folder / "dagster_home").iterdir()] == ["dagster.yaml"]


def test_a_wrong_profile_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "here")
    for wrong, word in (
        ("[profiles.sample]\nseed = 2", "code: reserved-profile-name"),
        ("[profiles.s2]\nseed = -1", "profiles.s2.seed"),
        ("[profiles.s2]\nseed = 2.5", "profiles.s2.seed"),
        ("[profiles.s2]\nsead = 2", "profiles.s2.sead"),
    ):
        (folder / "fer.toml").write_text(wrong)
        process = start(folder, "materialize", "-p", "s2")
        told, _ = process.communicate()
        assert (process.returncode, told.startswith("error: ")) == (1, True), told
        assert word in told and "Traceback" not in told
    assert not (folder / "outputs").exists()
