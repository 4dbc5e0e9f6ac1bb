"""The folder of pages: whole, escaped, and clicked through as a doubter does."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import pytest

from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.evidence import pages as made
from fer_ml.evidence.address import FOLDER
from fer_ml.evidence.pages import Around, replace_folder, report_of, write_evidence
from fer_ml.metrics.classification import confusion_matrix
from fer_ml.metrics.predictions import read_predictions
from fer_ml.storage.store import Store
from tests.axe import AXE, SCHEMES, WIDTHS, violations
from tests.fer_ml.evidence.conftest import HOSTILE, MODELS, N, claim, purged_log, put, verified

CE = claim("ce", "benchmark", "benchmark.json", "/entries/student_ce/mixed/raw/macro_f1")
ROWS = claim("rows", "classification_manifest", "clean_report.json", "/manifest/rows", decimals=0)
Make = Callable[..., Path]


def test_two_clicks_lead_to_a_wrong_face_and_two_to_a_claim_on_it(
    home: Store, pages: Make, browser: Any
) -> None:
    folder = pages(CE, ROWS)
    browser.goto((folder / "index.html").as_uri())
    browser.click("text=It is 0.")
    browser.click(".card.wrong >> nth=0")
    browser.wait_for_selector("#models table")
    says = browser.locator("#models tbody tr").all_inner_texts()
    assert len(says) == len(MODELS)
    assert {line.split("\t")[0] for line in says} == set(MODELS)
    assert browser.locator("#votes tr").nth(1).inner_text().split() == ["Disgust", "3"]
    assert browser.evaluate("document.querySelector('#face img').naturalWidth") > 0
    linked = browser.locator("#claims a").all_inner_texts()
    assert len(linked) == 2
    browser.click("#claims a >> nth=1")
    browser.wait_for_selector(".list tbody tr")
    assert browser.inner_text(".told") == f"{N} rows of {N}"
    assert browser.faults == []


def test_a_cell_of_the_matrix_shows_its_rows(home: Store, pages: Make, browser: Any) -> None:
    artifact = home.current("benchmark")
    assert artifact
    _, y, logits = read_predictions(artifact.file("predictions/student_ce__mixed.csv"))
    matrix = confusion_matrix(y, logits.argmax(axis=1), len(CLASSES))
    browser.goto((pages(CE) / "claims" / "ce.html").as_uri())
    browser.wait_for_selector(".matrix button")
    shown = browser.locator(".matrix button").all_inner_texts()
    assert [int(text) if text != "·" else 0 for text in shown] == matrix.ravel().tolist()
    a, b = divmod(int(matrix.argmax()), len(CLASSES))
    browser.click(f".matrix tbody tr >> nth={a} >> button >> nth={b}")
    assert browser.locator(".card").count() == matrix[a, b]
    browser.select_option("[name=against]", label="student_kd")
    browser.wait_for_timeout(300)
    other = read_predictions(artifact.file("predictions/student_kd__mixed.csv"))[2].argmax(axis=1)
    apart = (y == a) & (logits.argmax(axis=1) == b) & (other != b)
    assert browser.locator(".card").count() == apart.sum()
    assert browser.faults == []


def test_what_is_foreign_is_text(pages: Make, home: Store, browser: Any) -> None:
    """In cells that a script shows, in sentences, reasons and details of gates."""
    hostile = ROWS | {"sentence": f"{HOSTILE} {{value}} </script><b>", "id": "hostile"}
    folder = pages(hostile)
    browser.goto((folder / "claims" / "hostile.html").as_uri())
    browser.wait_for_selector(".list tbody tr")
    assert "</script>#?%" in browser.inner_text(".list tbody tr >> nth=1")
    assert browser.locator("main img[src=x], h1 b").count() == 0
    assert "onerror" in browser.inner_text("h1")
    browser.click(".list tbody a >> nth=1")
    browser.wait_for_selector("#face dl")
    assert "onerror=alert(1)" in browser.inner_text("#face")
    assert browser.faults == []
    for path in folder.rglob("*.html"):
        assert "<img src=x" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_is_wider_than_the_screen(pages: Make, browser: Any, width: int) -> None:
    folder = pages(CE, ROWS)
    browser.set_viewport_size({"width": width, "height": 900})
    for path in sorted(folder.rglob("*.html")):
        browser.goto(path.as_uri())
        browser.wait_for_timeout(200)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width, path.name
    assert browser.faults == []


@pytest.mark.skipif(not AXE, reason="needs axe-core: AXE_CORE names its axe.min.js")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing(pages: Make, browser: Any, scheme: str, width: int) -> None:
    folder = pages(CE, ROWS)
    browser.set_viewport_size({"width": width, "height": 900})
    browser.emulate_media(color_scheme=scheme)
    try:
        for path in sorted(folder.rglob("*.html")):
            browser.goto(path.as_uri())
            browser.wait_for_timeout(200)
            assert violations(browser) == []
        browser.goto((folder / "claims" / "ce.html").as_uri())
        browser.click(".card >> nth=0")
        browser.wait_for_selector("#claims ul")
        assert violations(browser) == []
    finally:
        browser.emulate_media(color_scheme="light")
        browser.faults.clear()  # axe asks for the style sheet, which the pages' policy refuses.


def test_no_face_is_shown_unless_it_may_be(pages: Make, browser: Any) -> None:
    folder = pages(CE, faces=False)
    asked: list[str] = []
    browser.on("request", lambda request: asked.append(request.url))
    browser.goto((folder / "claims" / "ce.html").as_uri())
    browser.click(".card >> nth=0")
    browser.wait_for_selector("#models table")
    assert browser.locator("main img").count() == 0
    assert len(asked) > 3 and not [url for url in asked if "cleaned" in url]


def test_a_purged_face_says_when(home: Store, browser: Any) -> None:
    artifact = home.current("test_all_sources_manifest")
    assert artifact
    held = verified(home, ROWS)
    rows = artifact.file("test_all_sources.csv").read_text().splitlines()[1].split(",")
    around = Around("test", True, True, purged=purged_log(rows[13]))
    write_evidence(home.root, home, held, around)
    browser.goto((home.root / "evidence" / "claims" / "rows.html").as_uri())
    browser.wait_for_selector("text=purged on 2026-02-03")
    assert browser.locator(f"img[src$='{rows[0]}']").count() == 0
    assert browser.locator(".list img").count() > 1
    assert browser.faults == []


def test_numbers_above_damage_are_shown_as_what_they_were(
    home: Store, tmp_path: Path, browser: Any
) -> None:
    """A purge takes a source's pages: what was made of it is red, and its rows are whole."""
    source = home.current("manifest/a")
    assert source
    path = source.file("excluded.csv")
    data = path.read_bytes()
    path.unlink()
    try:
        (found,) = verified(home, CE).claims
        assert (found.status, found.value) == ("drifted", None)
        write_evidence(tmp_path, home, verified(home, CE), AROUND)
    finally:
        path.write_bytes(data)
    browser.goto((tmp_path / "evidence" / "claims" / "ce.html").as_uri())
    assert "excluded.csv" in browser.inner_text("p.bad")
    browser.click("#again")
    browser.wait_for_selector("#told.good")
    assert browser.locator(".card.wrong").count() > 1
    browser.faults.clear()


def test_there_are_pages_whatever_file_is_missing(home: Store, tmp_path: Path) -> None:
    with_card = claim("card", "student_bundle", "card.json", "/metrics/mixed/accuracy")
    claims = [CE, ROWS, with_card]
    for number, path in enumerate(sorted(home.root.glob("*/**/*.*"))):
        if not path.is_file() or FOLDER in path.relative_to(home.root).parts:
            continue
        data = path.read_bytes()
        path.unlink()
        try:
            out = tmp_path / str(number)
            write_evidence(out, home, verified(home, *claims), AROUND)
            assert (out / FOLDER / "claims" / "ce.html").is_file(), path
        finally:
            path.write_bytes(data)
        shutil.rmtree(out)


def test_a_red_claim_says_why_and_what_it_was(home: Store, tmp_path: Path) -> None:
    before = verified(home, ROWS).to_json()
    put(home, "report_claims", lambda run: run.write_json("claims.json", before))
    write_evidence(
        tmp_path, home, verified(home, ROWS | {"expected": "7", "decimals": None}), AROUND
    )
    text = (tmp_path / "evidence" / "claims" / "rows.html").read_text()
    assert "contradicted" in text
    assert f"the artifact holds {N}, the claim says 7" in text
    assert re.search(rf"it was grounded: It is {N}\.", text)


AROUND = Around("test", False, False)


def test_a_folder_of_something_else_is_left_alone(home: Store, tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "mine.txt").write_text("mine")
    with pytest.raises(FerError) as caught:
        write_evidence(tmp_path, home, verified(home, ROWS), AROUND)
    assert caught.value.where == str(tmp_path / "evidence")
    assert [path.name for path in tmp_path.rglob("*")] == ["evidence", "mine.txt"]


def test_a_file_or_a_link_of_that_name_is_left_alone(home: Store, tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("mine")
    with pytest.raises(FerError) as caught:
        write_evidence(tmp_path, home, verified(home, ROWS), AROUND)
    assert caught.value.where == str(tmp_path / "evidence")
    assert (tmp_path / "evidence").read_text() == "mine"


def test_several_writers_leave_the_pages_of_one(tmp_path: Path) -> None:
    """None of them fails, and nothing of the others stays; nor of one that was killed."""
    killed = tmp_path / f".{socket.gethostname()}@999999999-00000000"
    killed.mkdir()

    def write(place: int) -> None:
        for turn in range(50):
            folder = tmp_path / f"{place}-{turn}"
            folder.mkdir()
            (folder / "evidence.js").write_text(f"{place}-{turn}")
            replace_folder(folder, tmp_path / "evidence")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["evidence"]
    assert (tmp_path / "evidence" / "evidence.js").read_text().endswith("-49")


def test_a_template_is_read_once_for_many_claims(
    home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it took nine tenths of the time of ten thousand."""
    compiled: list[str] = []
    compile_ = jinja2.Environment.compile

    def counted(self: jinja2.Environment, source: str, name: str, *more: Any, **named: Any) -> Any:
        compiled.append(name)
        return compile_(self, source, name, *more, **named)

    monkeypatch.setattr(jinja2.Environment, "compile", counted)
    write_evidence(
        tmp_path, home, verified(home, *[CE | {"id": f"c{i}"} for i in range(3)]), AROUND
    )
    assert len(compiled) == len(set(compiled))
    text = (tmp_path / "evidence" / "data" / "index.js").read_text()
    held = json.loads(text.removeprefix("fer.index(").removesuffix(");\n"))
    assert [len(held[name]) for name in ("claims", "terms", "assets")] == [3, 1, 1]


def test_pages_are_replaced_as_a_whole_or_not_at_all(
    home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evidence(tmp_path, home, verified(home, CE, ROWS), AROUND)
    assert {p.name for p in (tmp_path / "evidence" / "claims").iterdir()} == {
        "ce.html",
        "rows.html",
    }
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(made, "page", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_evidence(tmp_path, home, verified(home, ROWS), AROUND)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == kept
    monkeypatch.undo()
    write_evidence(tmp_path, home, verified(home, CE, ROWS), AROUND, only=["rows"])
    assert [p.name for p in (tmp_path / "evidence" / "claims").iterdir()] == ["rows.html"]


def test_an_unknown_claim_is_named(home: Store, tmp_path: Path) -> None:
    with pytest.raises(FerError) as caught:
        write_evidence(tmp_path, home, verified(home, CE, ROWS), AROUND, only=["other"])
    assert caught.value.allowed == "ce, rows"
    assert list(tmp_path.iterdir()) == []


def test_many_claims_have_pages_of_an_index(
    home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "INDEX_CLAIMS", 2)
    claims = [ROWS | {"id": f"r{i}"} for i in range(5)]
    write_evidence(tmp_path, home, verified(home, *claims), AROUND)
    names = ["index.html", "index-2.html", "index-3.html"]
    for place, name in enumerate(names):
        text = (tmp_path / "evidence" / name).read_text()
        assert (
            re.findall(r"claims/(r\d)\.html", text) == [f"r{i}" for i in range(5)][2 * place :][:2]
        )
        assert all(f'href="{other}"' in text for other in names)


def test_the_report_is_named_from_the_folder_of_the_pages(home: Store) -> None:
    assert report_of(Store(home.root, "other")) == ""
    run = put(home, "report", lambda run: run.write_text("report.html", "<p>"))
    assert (home.root / "evidence" / report_of(home)).resolve() == run.file("report.html")


def test_the_index_of_faces_is_a_script_that_hands_it_over(home: Store, tmp_path: Path) -> None:
    write_evidence(tmp_path, home, verified(home, CE), AROUND)
    text = (tmp_path / "evidence" / "data" / "index.js").read_text()
    held = json.loads(text.removeprefix("fer.index(").removesuffix(");\n"))
    assert held["claims"][0]["page"] == "claims/ce.html"
    terms = held["terms"][held["claims"][0]["terms"]]
    assert {held["tables"][term["table"]]["name"] for term in terms} == {"student_ce"}
    assert held["roots"].keys() == {"a"}
