"""The UI in a real browser: made, judged, broken, mended and traced by clicking.

Minutes, so on demand only:
``pytest -m proof tests/fer_assets/test_ui.py``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import dagster as dg
import polars as pl
import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from fer_assets.pages import VIEWS, view_path
from fer_assets.pipeline import Pipeline
from fer_ml.validation.gates import MANIFEST_GATES
from tests.ui_server import PATIENCE_S, Served, serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

CLAIMS = """
version: 2
title: What can be said after one teacher
claims:
  - id: rows
    kind: number
    sentence: "There are {value} rows."
    asset: classification_manifest
    file: clean_report.json
    pointer: /manifest/rows
  - id: teacher
    kind: number
    sentence: "The teacher has {value}."
    asset: teacher
    partition: RN18
    file: reliabilitymetrics.json
    pointer: /raw/macro_f1
    decimals: 3
"""


@pytest.fixture(scope="module")
def pipeline(project: Callable[[str], Pipeline]) -> Pipeline:
    opened = project("tiny")
    opened.claims_file().write_text(CLAIMS)
    return opened


@pytest.fixture(scope="module")
def served(pipeline: Pipeline) -> Iterator[Served]:
    with serving(pipeline.settings.project / "ui.log", "--profile", "tiny") as served:
        yield served


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(base_url=served.address, viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        opened.goto(served.link)
        yield opened
        browser.close()


def finished(button: Locator) -> dg.DagsterRun:
    """Click, and wait for the run that this starts to end."""
    with dg.DagsterInstance.get() as instance:
        before = {run.run_id for run in instance.get_runs()}
        button.click()
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            new = [run for run in instance.get_runs() if run.run_id not in before]
            if new and all(run.is_finished for run in new):
                assert len(new) == 1
                return new[0]
            time.sleep(1)
        button.page.screenshot(path=Path(os.environ["DAGSTER_HOME"]) / "stuck.png")
    raise AssertionError("no run was started and finished; see stuck.png in DAGSTER_HOME")


def judged(page: Page, asset: str) -> dg.DagsterRun:
    """Click 'Execute all' on the checks of an asset."""
    page.goto(f"/assets/tiny/{asset}?view=checks")
    return finished(page.get_by_role("button", name="Execute all"))


def check_page(page: Page, asset: str, rule: str) -> None:
    page.goto(f"/assets/tiny/{asset}?view=checks&checkDetail={rule}")
    expect(page.get_by_text("Evaluation result")).to_be_visible()


def test_the_graph_shows_the_groups(page: Page) -> None:
    page.goto("/asset-groups")
    for group in ("raw", "manifests", "teachers", "students", "report"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible()


def test_the_data_group_is_made_by_one_click(page: Page, pipeline: Pipeline) -> None:
    page.goto("/locations/tiny@fer/asset-groups/manifests")
    run = finished(page.get_by_role("button", name="Materialize all"))
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert pipeline.store.current("classification_manifest") is not None
    page.goto("/assets/tiny/raw/expw_full")
    expect(page.get_by_text("drawn/raw/")).to_be_visible()
    page.goto("/assets/tiny/classification_manifest")
    for question in ("Is it good?", "Made of:", "Rests on it:", "Claims on it:"):
        expect(page.get_by_text(question).first).to_be_visible()
    expect(page.get_by_text("Row count", exact=True)).to_be_visible()
    expect(page.get_by_text("hash of the decoded pixels and the box")).to_be_visible()
    page.get_by_text("[Show Markdown]").first.click()
    expect(page.get_by_role("img", name="classes.png")).to_be_visible()


def test_the_home_page_shows_a_run_of_the_command_with_its_steps(page: Page) -> None:
    fer = [sys.executable, "-c", "from fer_assets.cli import main; main()", "materialize"]
    subprocess.run([*fer, "-p", "tiny", "--select", "label_review", "--force"], check=True)
    with dg.DagsterInstance.get() as instance:
        run = instance.get_runs(limit=1)[0]
    page.goto("/")
    page.get_by_text("data", exact=True).locator("visible=true").first.click()
    page.get_by_role("tab", name="Runs").click()
    page.get_by_role("link", name=run.run_id[:8]).click()
    expect(page.get_by_text("label_review", exact=True).first).to_be_visible()
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()


def test_one_teacher_is_made_by_its_partition(page: Page, pipeline: Pipeline) -> None:
    page.goto("/assets/tiny/teacher")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition").click()
    # Each name stands in the list twice: once to be measured, once to be read.
    page.get_by_text("RN18", exact=True).locator("visible=true").last.click()
    page.keyboard.press("Escape")
    run = finished(page.get_by_role("button", name=re.compile("^Launch")))
    assert run.status == dg.DagsterRunStatus.SUCCESS
    teacher = pipeline.store.current("teacher", "RN18")
    assert teacher and all(r.passed for r in teacher.receipts().values() if r.blocking)
    page.goto("/assets/tiny/teacher?view=partitions&partition=RN18")
    expect(page.get_by_text("val_macro_f1").first).to_be_visible()


def test_a_planted_fault_is_red_with_value_limit_and_fix_and_green_once_mended(
    page: Page, pipeline: Pipeline
) -> None:
    asset = "classification_manifest"
    artifact = pipeline.store.current(asset)
    assert artifact
    rows = pl.read_csv(artifact.file(f"{asset}.csv"), infer_schema=False)
    image = pipeline.store.root / rows["image_path"][0]
    data, times = image.read_bytes(), image.stat()
    middle = len(data) // 2
    with image.open("r+b") as file:
        file.seek(middle)
        file.write(bytes([data[middle] ^ 0xFF]))
    try:
        judged(page, asset)
        red = [r for r in artifact.receipts().values() if r.blocking and r.passed is False]
        assert {r.rule for r in red} <= {"changed_pixels", "undecodable"}
        assert [(r.value, r.limit) for r in red] == [(1.0, 0.0)]
        gate = next(gate for gate in MANIFEST_GATES if gate.rule == red[0].rule)
        check_page(page, asset, gate.rule)
        expect(page.get_by_text("Failed", exact=True).last).to_be_visible()
        for text in (gate.asks, gate.fix, image.name):
            expect(page.get_by_text(text).last).to_be_visible()
    finally:
        image.write_bytes(data)
        os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert judged(page, asset).status == dg.DagsterRunStatus.SUCCESS
    check_page(page, asset, gate.rule)
    expect(page.get_by_text("Passed", exact=True).first).to_be_visible()


def test_a_claim_leads_to_what_it_rests_on(page: Page) -> None:
    page.goto("/assets/tiny/report_claims")
    run = finished(page.get_by_role("button", name="Materialize").first)
    assert run.status == dg.DagsterRunStatus.SUCCESS
    page.goto("/assets/tiny/report_claims")
    expect(page.get_by_text("✓ grounded")).to_have_count(2)
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_role("link", name="teacher[RN18]").click()
    expect(page).to_have_url(re.compile(r"/assets/tiny/teacher\?.*partition=RN18"))
    page.goto(view_path(*VIEWS["report claims"]))
    expect(page.get_by_text("teachers", exact=True).first).to_be_visible()
    expect(page.get_by_text("deployment", exact=True)).to_have_count(0)


def test_a_claim_leads_to_the_rows_behind_its_number(page: Page) -> None:
    page.goto("/assets/tiny/report_claims")
    page.get_by_text("[Show Markdown]").first.click()
    page.get_by_role("link", name="Evidence").last.click()
    page.wait_for_url(re.compile("/fer/evidence/claims/teacher.html"))
    expect(page.locator(".card.wrong img").first).to_be_visible()
    page.get_by_role("button", name="Compute it again").click()
    expect(page.locator("#told.good")).to_contain_text("sha256")
    page.goto(view_path(*VIEWS["data health"]))
    expect(page.get_by_text("classifi…_manifest").first).to_be_visible()


def test_everything_is_made_by_the_largest_button(
    page: Page, served: Served, pipeline: Pipeline
) -> None:
    page.goto("/asset-groups")
    page.get_by_role("button", name=re.compile("Materialize all")).click()
    page.get_by_role("button", name="Launch backfill").click()
    end, status = time.monotonic() + 10 * PATIENCE_S, "REQUESTED"
    while status in ("REQUESTED", "COMPLETED_FAILED_PENDING") and time.monotonic() < end:
        time.sleep(3)
        started = served.ask(BACKFILLS)["partitionBackfillsOrError"]["results"]
        status = started[0]["status"] if started else status
    assert status == "COMPLETED_SUCCESS"
    for target in filter(pipeline.standard, pipeline.targets()):
        pipeline.store.require(target.asset, target.partition)


BACKFILLS = """{ partitionBackfillsOrError { ... on PartitionBackfills { results { status } } } }"""
LAUNCH = """mutation { launchRun(executionParams: {mode: "default", runConfigData: "{}", selector: {
  jobName: "retention", repositoryLocationName: "fer", repositoryName: "tiny"}})
  { __typename } }"""
FOLLOW = "subscription($id: ID!) { pipelineRunLogs(runId: $id) { __typename } }"


def sent(url: str, **headers: str) -> int:
    """The status of a form that a page elsewhere sends, or of what it shows as a picture."""
    body = None if "query=" in url else json.dumps({"query": LAUNCH}).encode()
    try:
        with urlopen(Request(url, body, headers), timeout=60) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.threat("strangers, or a foreign page in the user's browser, use the UI or the demo")
def test_a_page_elsewhere_starts_nothing_and_reads_nothing(served: Served) -> None:
    """With the browser's own cookie, which it sends along."""
    graphql, mine = f"{served.address}/graphql", {"Cookie": served.cookie}
    picture = f"{graphql}?{urlencode({'query': LAUNCH})}"
    plain = {"Content-Type": "text/plain", **mine}
    with dg.DagsterInstance.get() as instance:
        before = instance.get_runs_count()
        assert sent(picture, **mine, Accept="image/*") == 405
        assert sent(picture, Host="evil.example", Origin="http://evil.example") == 403
        assert sent(graphql, **plain, Origin="http://evil.example") == 403
        assert sent(graphql, **plain, Origin="null") == 403
        assert sent(graphql, **mine, Host=f"evil.example:{served.address[-4:]}") == 403
        assert sent(graphql) == 403
        assert instance.get_runs_count() == before
    socket = graphql.replace("http:", "ws:")
    for origin in ("http://evil.example", "null", None):
        with (
            pytest.raises(InvalidStatus),
            connect(socket, origin=origin, additional_headers=mine),  # type: ignore[arg-type]
        ):
            pass


def test_a_run_is_followed_over_the_stream(served: Served) -> None:
    launched = served.ask(
        LAUNCH.replace("{ __typename }", "{ ... on LaunchRunSuccess { run { id } } }")
    )
    started = {"query": FOLLOW, "variables": {"id": launched["launchRun"]["run"]["id"]}}
    with connect(
        f"ws{served.address.removeprefix('http')}/graphql",
        origin=served.address,  # type: ignore[arg-type]
        additional_headers={"Cookie": served.cookie},
        subprotocols=["graphql-ws"],  # type: ignore[list-item]
        max_size=None,
    ) as stream:
        stream.send(json.dumps({"type": "connection_init"}))
        assert json.loads(stream.recv(60))["type"] == "connection_ack"
        stream.send(json.dumps({"type": "start", "id": "1", "payload": started}))
        answer = json.loads(stream.recv(60))
    assert answer["payload"]["data"]["pipelineRunLogs"]["__typename"].endswith("Success")


def test_a_guest_sees_everything_and_starts_nothing(pipeline: Pipeline) -> None:
    log = pipeline.settings.project / "guest.log"
    with serving(log, "--profile", "tiny", "--read-only") as served:
        assert len(served.ask("{ assetNodes { id } }")["assetNodes"]) > 20
        granted = served.ask("{ permissions { permission value } }")["permissions"]
        assert granted
        assert not [p["permission"] for p in granted if p["value"]]
        wiped = served.ask("mutation { wipeAssets(assetPartitionRanges: []) { __typename } }")
        assert wiped["wipeAssets"]["__typename"] == "UnauthorizedError"
