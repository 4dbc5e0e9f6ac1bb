"""The numbers that a report prints outside of its claims, held against the artifacts."""

from pathlib import Path
from typing import Any

from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.evidence.address import page_of_number
from fer_ml.evidence.numbers import numbers_of
from fer_ml.evidence.pages import Around, write_evidence
from fer_ml.storage.store import Store
from tests.fer_ml.evidence.conftest import claim, put, verified

ENTRY = "/entries/student_ce/mixed"
AROUND = Around("test", True, True)


def printed(home: Store, *references: dict[str, Any]) -> tuple[Resolved, ...]:
    """What becomes of a report's numbers."""
    report = put(
        home, "report", lambda run: run.write_json("report.json", {"references": references})
    )
    held = numbers_of(report)
    return verify(held, Tracer(home)).claims if held else ()


def value(asset: str, file: str, pointer: str, text: str) -> dict[str, Any]:
    held = {"kind": "value", "asset": asset, "file": file}
    # As ``References.value`` keeps them: of a text there is no number.
    numbers = {} if text.isalpha() else {pointer: text}
    return held | {"pointer": pointer, "printed": text, "numbers": numbers}


def accuracy(home: Store) -> str:
    held = home.current("benchmark")
    assert held
    entry = held.read_json("benchmark.json")["entries"]["student_ce"]["mixed"]
    return f"{entry['raw']['accuracy']:.3f}"


def test_numbers_of_one_place_share_a_page_and_are_held_against_it(home: Store) -> None:
    numbers = {f"{ENTRY}/n": "120", f"{ENTRY}/raw/accuracy": accuracy(home)}
    table = {"kind": "table", "asset": "benchmark", "file": "benchmark.json", "numbers": numbers}
    run = value("teacher[RN18]", "reliabilitymetrics.json", "/n", "30")
    text = value("benchmark", "benchmark.json", f"{ENTRY}/split", "test")
    entry, teacher = printed(home, table, run, text, {"kind": "claim", "id": "x"})
    assert entry.claim.section == "student_ce on mixed"
    assert [number.source.pointer for number in entry.numbers] == list(numbers)
    assert entry.status == teacher.status == "grounded"
    assert [number.value for number in teacher.numbers] == [30]
    assert page_of_number("teacher[RN18]", "reliabilitymetrics.json", "/n").endswith(
        f"/{teacher.claim.id}.html"
    )


def test_a_number_that_the_artifact_no_longer_holds_is_red(home: Store, tmp_path: Path) -> None:
    of_run = value("teacher[RN18]", "reliabilitymetrics.json", "/n", "31")
    (found,) = printed(home, of_run)
    assert found.status == "contradicted"
    held = verified(home, claim("ce", "benchmark", "benchmark.json", f"{ENTRY}/raw/accuracy"))
    write_evidence(tmp_path, home, held, AROUND, numbers=[found])
    page = tmp_path / page_of_number("teacher[RN18]", "reliabilitymetrics.json", "/n")
    text = page.read_text()
    assert "contradicted" in text and found.reason in text
    assert f"numbers/{page.name}" in (tmp_path / "evidence" / "index.html").read_text()


def test_a_report_without_numbers_has_no_pages_of_them(home: Store) -> None:
    assert printed(home, {"kind": "claim", "id": "x"}) == ()


def test_the_browser_computes_the_printed_numbers_and_a_face_leads_back(
    home: Store, browser: Any
) -> None:
    of_ce = value("benchmark", "benchmark.json", f"{ENTRY}/raw/accuracy", accuracy(home))
    scale = value("benchmark", "benchmark.json", f"{ENTRY}/temperature", "0.5")
    held = verified(home, claim("ce", "benchmark", "benchmark.json", f"{ENTRY}/raw/accuracy"))
    write_evidence(home.root, home, held, AROUND, numbers=printed(home, of_ce, scale))
    browser.goto((home.root / page_of_number("benchmark", "benchmark.json", ENTRY)).as_uri())
    browser.click("#again")
    browser.wait_for_selector("#told.warn")
    assert browser.locator(".numbers .good").count() == 1
    assert browser.inner_text("#told").startswith("✓")
    assert "1 of 2" in browser.inner_text("#told")
    browser.click(".card.wrong >> nth=0")
    browser.wait_for_selector("#claims ul")
    browser.click("#claims a >> text=student_ce on mixed")
    browser.wait_for_selector(".card.wrong")
    assert browser.faults == []
