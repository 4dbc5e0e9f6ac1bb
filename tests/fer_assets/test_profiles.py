"""Two profiles of one project, over one Dagster instance: neither shows what the other made."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fer_assets.keys import LOCATION, repository_name
from fer_assets.pipeline import Pipeline
from fer_ml.base.settings import settings
from tests.fer_assets.folders import PROFILES, make_project, start
from tests.ui_server import PATIENCE_S, Served, serving

#: The default profile, and one whose name Dagster keeps for itself.
OWN, OTHER = "own", "config"

SHOWN = """{ assetNodes { assetKey { path } staleStatus
  assetMaterializations(limit: 1) { runId
    metadataEntries { label ... on TextMetadataEntry { text } } }
  assetChecksOrError { ... on AssetChecks { checks { name
    executionForLatestMaterialization { runId status } } } } } }"""
PLACES = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  name location { name } sensors { name } } } } }"""
RUNS = """query($tag: String!) { runsOrError(filter: {
  tags: [{key: ".dagster/repository", value: $tag}] }) { ... on Runs { results { runId } } } }"""
LAUNCH = """mutation($name: String!, $profile: String!) { launchRun(executionParams: {
  mode: "default", runConfigData: "{}", selector: {
    repositoryLocationName: "fer", repositoryName: $name, jobName: "data",
    assetSelection: [{path: [$profile, "label_review"]}], assetCheckSelection: [] } })
  { ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def materialize(folder: Path, profile: str) -> None:
    command = start(folder, "materialize", "-p", profile, "--select", "manifests")
    told, _ = command.communicate()
    assert command.returncode == 0, told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    held = make_project(tmp_path_factory.mktemp("two") / "project")
    own, _, _ = PROFILES.partition("[profiles.red]")
    other = own.replace("profiles.own", f"profiles.{OTHER}").replace("val = 0.4", "val = 0.3")
    (held / "fer.toml").write_text(f'profile = "{OWN}"\n{own}{other}')
    for profile in (OWN, OTHER):
        materialize(held, profile)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FER_HOME", "FER_PROFILE", "DAGSTER_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("FER_PROJECT", str(held))
        settings.cache_clear()
        yield held
    settings.cache_clear()


@pytest.fixture(scope="module")
def uis(folder: Path) -> Iterator[dict[str, Served]]:
    """That of the default profile, opened without its name for a guest, and the other's."""
    with (
        serving(folder / "own.log", "--read-only", cwd=folder) as own,
        serving(folder / "other.log", "--profile", OTHER, cwd=folder) as other,
    ):
        yield {OWN: own, OTHER: other}


def shown(ui: Served) -> dict[str, dict[str, Any]]:
    """What the pages of the assets show, by asset; the keys of one profile alone."""
    nodes = ui.ask(SHOWN)["assetNodes"]
    assert len({node["assetKey"]["path"][0] for node in nodes}) == 1
    return {"/".join(node["assetKey"]["path"][1:]): node for node in nodes}


@pytest.mark.parametrize("profile", [OWN, OTHER])
def test_each_ui_shows_the_artifacts_and_verdicts_of_its_profile(
    uis: dict[str, Served], profile: str
) -> None:
    pipeline = Pipeline.open(profile)
    pages = shown(uis[profile])
    assert {node["assetKey"]["path"][0] for node in pages.values()} == {profile}
    runs = set()
    for stage in pipeline.stages.values():
        held = pipeline.store.current(stage.asset) if stage.group == "manifests" else None
        if held is None:
            continue
        page = pages[stage.asset]
        (made,) = page["assetMaterializations"]
        texts = {entry["label"]: entry.get("text") for entry in made["metadataEntries"]}
        assert texts["profile"] == profile and texts["sha256"] == held.sha256
        assert (made["runId"], page["staleStatus"]) == (held.record.run_id, "FRESH")
        runs.add(made["runId"])
        for check in page["assetChecksOrError"]["checks"]:
            receipt = held.receipts()[check["name"]]
            told = check["executionForLatestMaterialization"]
            if receipt.passed is not None:
                assert told["runId"] == receipt.run_id, check
                assert (told["status"] == "SUCCEEDED") == receipt.passed
    (place,) = uis[profile].ask(PLACES)["repositoriesOrError"]["nodes"]
    assert (place["name"], place["location"]["name"]) == (repository_name(profile), LOCATION)
    tag = f"{repository_name(profile)}@{LOCATION}"
    listed = uis[profile].ask(RUNS, tag=tag)["runsOrError"]["results"]
    assert {run["runId"] for run in listed} == runs


def test_a_change_of_one_profile_leaves_the_pages_of_the_other(
    folder: Path, uis: dict[str, Served]
) -> None:
    before, others = shown(uis[OWN]), shown(uis[OTHER])
    text = (folder / "fer.toml").read_text()
    (folder / "fer.toml").write_text(text.replace("val = 0.3", "val = 0.2"))
    settings.cache_clear()
    materialize(folder, OTHER)
    assert shown(uis[OWN]) == before
    made = shown(uis[OTHER])
    assert made["classification_manifest"] != others["classification_manifest"]


def test_a_run_of_the_ui_is_made_for_the_profile_that_it_was_started_in(
    folder: Path, uis: dict[str, Served]
) -> None:
    """Whatever the default is: its origin says so."""
    ui, asset = uis[OTHER], "label_review"
    before = Pipeline.open(OWN).store.current(asset)
    launched = ui.ask(LAUNCH, name=repository_name(OTHER), profile=OTHER)["launchRun"]
    run_id = launched["run"]["id"]
    end, status = time.monotonic() + PATIENCE_S, ""
    while status not in ("SUCCESS", "FAILURE", "CANCELED") and time.monotonic() < end:
        time.sleep(0.5)
        status = ui.ask(STATUS, id=run_id)["runOrError"]["status"]
    assert status == "SUCCESS", (folder / "other.log").read_text()
    made = Pipeline.open(OTHER).store.current(asset)
    assert made and made.record.run_id == run_id
    assert Pipeline.open(OWN).store.current(asset) == before
