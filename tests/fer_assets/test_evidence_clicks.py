"""From the report to the faces behind its numbers and back, as a doubter clicks, in Chromium.

A whole lineage is made for it: ``pytest -m proof tests/fer_assets/test_evidence_clicks.py``.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from typer.testing import CliRunner

from fer_assets.cli import app
from fer_assets.evidence import write
from fer_assets.pipeline import Pipeline
from fer_assets.running import materialize
from fer_assets.start import Start
from tests.axe import AXE, SCHEMES, WIDTHS, violations

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
#: Claims and numbers behind which there is no face of a manifest: their page says why, or shows
#: rows of what has none: a formula, a setting, a count of quarantined rows, a session's frames.
NO_FACE = r"settings|formula|expw|demo-kpis|training-json"

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def tiny(project: Callable[[str], Pipeline]) -> Pipeline:
    pipeline = project("tiny")
    with dg.DagsterInstance.get() as instance:
        materialize(pipeline, instance)
    write(pipeline)
    return pipeline


@pytest.fixture(scope="module")
def report(tiny: Pipeline) -> str:
    held = tiny.store.current("report")
    assert held is not None
    return held.file("report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tiny: Pipeline) -> Iterator[Browser]:
    """Opened once all is made: Dagster's runs and playwright's loop do not go together."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = browser.new_page(viewport={"width": 1440, "height": 1000})
    faults: list[str] = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    yield made
    made.close()
    assert faults == []


def led(page: Page, report: str) -> list[str]:
    """Where the report's marks and numbers lead, each address once."""
    page.goto(report)
    return page.locator("a.mark, a.number").evaluate_all(
        "found => [...new Set(found.map(a => a.getAttribute('href')))]"
    )


def test_each_number_of_the_report_leads_to_its_faces_in_two_clicks(
    page: Page, report: str
) -> None:
    """A wrong one where there are predictions, else a row's; or the page says why there is none."""
    addresses = led(page, report)
    assert len(addresses) > 20
    shown = 0
    for address in addresses:
        page.goto(report)
        page.click(f"a[href='{address}'] >> nth=0")
        page.wait_for_load_state()
        assert page.url.endswith(address.rpartition("/")[2])
        if re.search(NO_FACE, address):
            assert page.locator("#rows .told, .numbers .dim, main dl dd, main p").count()
            continue
        page.wait_for_selector(".card, .list tbody tr, .numbers .dim")
        if page.locator(".list a").count():
            page.locator(".card.wrong, .list a").first.click()
            page.wait_for_selector("#face img")
            assert page.evaluate("document.querySelector('#face img').naturalWidth") > 0
            shown += 1
    assert shown > len(addresses) * 2 // 3


def test_a_face_leads_to_every_claim_on_it_in_two_clicks(page: Page, tiny: Pipeline) -> None:
    """One to its page, from any row that shows it, one to the claim, which leads back."""
    folder = tiny.store.root / "evidence"
    page.goto((folder / "claims" / "accuracy.html").as_uri())
    page.click(".card.wrong >> nth=0")
    page.wait_for_selector("#claims ul")
    face, sample = page.url, page.locator("#face dd").nth(3).inner_text()
    claims = page.locator("#claims a").evaluate_all("found => found.map(a => a.href)")
    told = CliRunner().invoke(app, ["trace", sample, "--json"])
    assert told.exit_code == 0, told.output
    counted = set(re.findall(r'"id": "([a-z0-9-]+)"', told.output))
    assert {Path(c).stem for c in claims if "/claims/" in c} == counted
    for claim in claims:
        page.goto(face)
        page.click(f"#claims a[href$='{claim.rpartition('/')[2]}']")
        page.wait_for_selector("h1")
        assert page.url == claim


def test_each_number_of_the_report_is_computed_again_from_its_rows(page: Page, report: str) -> None:
    for address in led(page, report):
        page.goto(report)
        page.click(f"a[href='{address}'] >> nth=0")
        again = page.locator("#again")
        if again.count():
            again.click()
            page.wait_for_selector("#told.good, #told.warn, #told.bad")
            assert page.inner_text("#told").startswith("✓"), page.url
            assert page.locator(".numbers .bad").count() == 0


@pytest.mark.skipif(not AXE, reason="needs axe-core: AXE_CORE names its axe.min.js")
def test_axe_finds_nothing(browser: Browser, tiny: Pipeline, report: str, tmp_path: Path) -> None:
    """On the start page, evidence, a trace, the digest and the report, and on a face's page."""
    folder = tiny.store.root / "evidence"
    for command in (["digest"], ["trace", "accuracy"]):
        done = CliRunner().invoke(app, [*command, "--html", str(tmp_path / f"{command[0]}.html")])
        assert (tmp_path / f"{command[0]}.html").is_file(), done.output
    (tmp_path / "start.html").write_text(Start(tiny).page(0, again=False), encoding="utf-8")
    addresses = [
        report,
        *(path.as_uri() for path in (*tmp_path.iterdir(), *folder.rglob("*.html"))),
    ]
    addresses = [address for address in addresses if "/face.html" not in address]
    found = set()
    for scheme in SCHEMES:
        for width in WIDTHS:
            view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for address in [*addresses, ""]:
                if address:
                    view.goto(address)
                else:
                    view.goto((folder / "claims" / "accuracy.html").as_uri())
                    view.click(".card >> nth=0")
                    view.wait_for_selector("#claims ul")
                if view.locator("#again").count():
                    view.click("#again")
                    view.wait_for_selector("#told.good, #told.warn, #told.bad")
                assert view.evaluate("document.documentElement.scrollWidth") <= width, address
                found |= set(violations(view))
            view.close()
    assert found == set()
