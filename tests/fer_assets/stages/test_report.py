"""The asset: its files, the same bytes for the same inputs, and its gates."""

import base64
import io
import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from pypdf import PdfReader

from fer_assets.stage import Limits
from fer_assets.stages.report import GATES, judge
from fer_ml.base.reading import sha256_file
from fer_ml.recipes.builtin import sample
from fer_ml.report.html import html_page
from fer_ml.report.pdf import pdf_bytes
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.looks import note_look
from fer_ml.storage.store import Store
from tests.fer_ml.report.conftest import HOSTILE, LOOKED
from tests.refusals import refused

Made = Callable[..., Artifact]
WHEN = {
    "unseen": "before any look at its sets",
    "seen": "or changed after a look at its sets",
    "told": "before any look of this artifact root, but after others at test_all_sources",
}
WHOLE = """# {{ title }}

{{ claim('rows') }} As shown [1].

{{ figure('student_dkd', 'curve.png', 'A curve') }}

{{ table('report_claims') }}

## References

[1] Somebody.
"""


def outcomes(report: Artifact, store: Store) -> dict[str, tuple[bool, float | str]]:
    found = judge(report, store, Limits())
    assert [o.rule for o in found] == [gate.rule for gate in GATES]
    return {outcome.rule: (outcome.passed, outcome.value) for outcome in found}


def test_the_same_inputs_give_the_same_bytes(make: Made) -> None:
    first, second = make(WHOLE), make(WHOLE)
    assert first.folder != second.folder
    assert first.record.files == second.record.files
    assert set(first.record.files) == {
        "figures/student_dkd_curve.png",
        "report.html",
        "report.json",
        "report.md",
        "report.pdf",
        "template.md.j2",
    }
    counts = {"claims": 1, "figures": 1, "tables": 1}
    assert counts.items() <= first.record.summary.items()


@pytest.mark.parametrize(
    ("faces", "plan", "looked_at", "when"),
    [
        ("test_all_sources", "this", {}, "unseen"),
        ("test_all_sources", None, {}, "seen"),
        ("test_all_sources", "another", {}, "seen"),
        ("hq_train_val", None, {}, "unseen"),  # Val is what choices are made on.
        ("test_all_sources", "this", {"test_all_sources": "2020-01-02"}, "told"),
    ],
)
def test_the_plan_is_kept_by_its_hash_and_says_whether_it_came_first(
    make: Made,
    store: Store,
    tmp_path: Path,
    faces: str,
    plan: str | None,
    looked_at: dict[str, str],
    when: str,
) -> None:
    assert "No plan of the comparisons" in make("{{ sources() }}").file("report.md").read_text()
    path = tmp_path / "mine.plan.md"
    path.write_text("CE against KD, three seeds\n")
    digest = sha256_file(path)
    known = {"this": digest, "another": "0" * 64, None: None}
    about = {"profile": "p", "asset": "benchmark", "run_id": None, "decisions": {}}
    note_look(store.root.parent, {"s": LOOKED[faces]}, plan=known[plan], **about)
    profile = sample().model_copy(update={"looked_at": looked_at})
    report = make("{{ sources() }}", profile, plan=path)
    assert report.file("plan.md").read_bytes() == path.read_bytes()
    said = f"planned in `plan.md` (`{digest[:12]}`), written {WHEN[when]}."
    assert said in report.file("report.md").read_text()


def test_the_page_needs_no_other_file(make: Made) -> None:
    report = make(WHOLE)
    html = report.file("report.html").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, value in attrs:
                found.setdefault(f"{tag}.{name}", []).append(value or "")

    Reader().feed(html)
    (source,) = found["img.src"]
    picture = report.file("figures/student_dkd_curve.png").read_bytes()
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == picture
    assert "script.src" not in found and "link.href" not in found
    assert "default-src 'none'" in found["meta.content"][1]
    assert "<title>A *title*</title>" in html
    ids = found["h1.id"] + found["h2.id"]
    marks = {f"../../evidence/claims/{name}.html" for name in ("rows", "acc", "pair", "late")}
    assert {href.removeprefix("#") for href in found["a.href"]} <= {*ids, *marks}


def test_marks_of_claims_that_do_not_hold_are_red(make: Made) -> None:
    html = make("{{ claim('rows') }} {{ claim('late') }}").file("report.html").read_text("utf-8")
    assert '<a href="../../evidence/claims/rows.html" class="mark">c1 ✓</a>' in html
    assert '<a href="../../evidence/claims/late.html" class="mark bad">c4 ✗ stale</a>' in html


def test_a_mark_has_a_card_of_what_stands_behind_it(make: Made) -> None:
    """Sentence, status with its reason, place, bytes, gates, and the command; all as text."""
    html = make("{{ claim('rows') }} {{ claim('late') }}").file("report.html").read_text("utf-8")
    cards = re.findall(r'</a><span class="card" role="tooltip">(.*?)</span></span>', html)
    lines = [re.findall(r'<span class="\w+">(.*?)(?:</span>|$)', card) for card in cards]
    assert lines[0] == [
        "There are 2,085 rows.",
        "grounded",
        "student_dkd numbers.json/rows",
        "bytes cccccccccccc",
        "gates on its path: 1 passed, 1 did not",
        "fer trace rows",
    ]
    assert lines[1][0] == escape(HOSTILE)
    assert lines[1][1] == "stale: x_1: a *newer* one | is current"


def test_the_pdf_sets_every_kind_of_block(make: Made) -> None:
    text = (
        "# Title & <b>\n\n**a *b*** `c` [d](https://e.org) [e](x.md) [f](#nowhere) [g](#title--b)\n"
        "[c1 ✓](../../evidence/claims/a.html)\n\n"
        "- a\n  - b\n\n3. c\n\n   d\n\n> q\n\n```\nx <y>\n```\n\n---\n\n"
        "#### Deep\n\n"
        "| a | b |\n| --- | ---: |\n| [c1](../../evidence/claims/a.html) | 1 |\n\n"
        "![alt](missing.png)\n"
    )
    data = pdf_bytes(text, {})
    assert data == pdf_bytes(text, {})
    read = PdfReader(io.BytesIO(data))
    (page,) = read.pages
    assert read.metadata is not None and read.metadata.title == "Title & <b>"
    # An outline does not skip a level.
    assert [[str(each.title)] for each in read.outline[:1]] == [["Title & <b>"]]
    assert [str(each.title) for each in read.outline[1]] == ["Deep"]
    # Links lead out only where they can: two marks, an address, and a place in the document.
    actions = [note.get_object().get("/A", {}) for note in page["/Annots"]]
    addresses = sorted(str(action["/URI"]) for action in actions if "/URI" in action)
    assert addresses == [*["../../evidence/claims/a.html"] * 2, "https://e.org"]
    assert len(actions) == 4
    words = page.extract_text()
    assert all(word in words for word in ("e", "f", "q", "x <y>", "missing.png", "3."))


@pytest.mark.parametrize("text", ["#panic()", "$x$ @who <tag> `#eval(1)`", "\\ // /* ] ) *"])
def test_words_of_a_report_are_no_commands_of_the_typesetter(text: str) -> None:
    (page,) = PdfReader(io.BytesIO(pdf_bytes(f"# {text}\n\n{text}\n", {}))).pages
    assert page.extract_text().count(text.replace("`", "").replace("\\\\", "\\")) == 2


def test_what_is_no_web_address_leads_nowhere() -> None:
    targets = ("smb://x/y", "ms-word:ofe|u|http://x", f"https://e.org/{'a' * 9_000}")
    text = " ".join(f"[x](<{target}>)" for target in targets)
    (page,) = PdfReader(io.BytesIO(pdf_bytes(text, {}))).pages
    assert "/Annots" not in page


def test_a_picture_that_cannot_be_set_is_named_by_a_code() -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, "PNG")
    with refused("pdf-failed"):
        pdf_bytes("![a](a.jpg)", {"a.jpg": data.getvalue()})


def test_a_long_table_goes_on_with_its_head(make: Made) -> None:
    rows = "".join(f"| row_{number} | {number} |\n" for number in range(90))
    read = PdfReader(io.BytesIO(pdf_bytes(f"| name | value |\n| --- | ---: |\n{rows}", {})))
    assert len(read.pages) > 1
    assert all("name" in page.extract_text() for page in read.pages)


def test_glyphs_that_the_pdf_lacks_are_told(caplog: pytest.LogCaptureFixture) -> None:
    pdf_bytes("plain ✓ \u2013", {})
    assert not caplog.records
    pdf_bytes("\u65e5", {})
    assert "no glyphs for \u65e5" in caplog.text


def test_an_empty_report_is_a_report() -> None:
    assert "<title>Report</title>" in html_page("", {})
    assert pdf_bytes("", {}).startswith(b"%PDF-")


def test_gates_of_a_sound_report(make: Made, store: Store) -> None:
    found = outcomes(make(WHOLE), store)
    assert found.pop("checklist_stated") == (False, 4)
    assert set(found.values()) == {(True, 0)}
