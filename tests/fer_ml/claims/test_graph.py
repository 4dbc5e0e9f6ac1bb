"""A trace drawn: layers that run downwards, boxes that do not overlap, text that is escaped."""

import html.parser
import itertools
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from fer_ml.claims.graph import BOX_HEIGHT, BOX_WIDTH, Drawing, Traced, mermaid, page, trace_what
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import Put, judge

Chain = dict[str, Artifact]
SENTENCE = 'It\'s <b>{value}</b> & "more" # `code`'
CLAIM = {
    "id": "total",
    "kind": "number",
    "sentence": SENTENCE,
    "asset": "benchmark",
    "file": "benchmark.json",
    "pointer": "/total",
}
TEXT = {"id": "text", "kind": "sum", "sentence": "S {value}", "expected": "3", "parts": ["1", "2"]}


def traced(store: Store, what: str = "total", **changes: Any) -> Traced:
    held = ClaimsFile.model_validate(
        {"version": "2", "title": "T", "claims": [{**CLAIM, **changes}, TEXT]}
    )
    return trace_what(Tracer(store, raw_elsewhere=True), held, what)


def test_a_claim_an_asset_and_a_claim_on_text_alone(store: Store, chain: Chain) -> None:
    found = traced(store)
    assert (found.state, found.sound, len(found.steps)) == ("grounded", True, 7)
    assert found.steps[0].artifact == chain["benchmark"]
    asset = traced(store, "student_dkd")
    assert (asset.state, asset.claim, len(asset.steps)) == ("sound", None, 6)
    text = traced(store, "text")
    assert (text.state, text.steps) == ("grounded", [])
    assert "It rests on no artifact." in page(text, "T")


def test_its_state_is_the_worst_of_its_steps(store: Store, chain: Chain, put: Put) -> None:
    put("manifest/a", {"new.csv": "x\n"}, chain["manifest/a"].record.inputs)
    assert traced(store, "student_dkd").state == "stale"
    (chain["manifest/b"].folder / "b.csv").write_text("edited")
    found = traced(store, "student_dkd")
    assert (found.state, found.sound) == ("drifted", False)
    told = {step["asset"]: step["problem"] for step in found.to_json()["steps"]}
    assert told["manifest/a"] == "a newer one is current"
    assert told["manifest/b"] == "damaged: b.csv differs from its recorded sha256"
    assert told["student_dkd"] is None


def test_every_step_stands_above_what_it_rests_on_and_none_overlap(
    store: Store, chain: Chain
) -> None:
    found = traced(store)
    drawing = Drawing(found)
    boxes = {box.id: box for box in drawing.boxes()}
    names = {node.identity: f"s{number}" for number, node in enumerate(found.steps)}
    for node in found.steps:
        for below in node.inputs:
            above, under = boxes[names[node.identity]], boxes[names[below.identity]]
            assert above.y + BOX_HEIGHT < under.y
    for a, b in itertools.combinations(boxes.values(), 2):
        assert abs(a.x - b.x) >= BOX_WIDTH or abs(a.y - b.y) >= BOX_HEIGHT, (a, b)
    for box in boxes.values():
        assert box.x >= 0 and box.x + BOX_WIDTH <= drawing.width
        assert box.y >= 0 and box.y + BOX_HEIGHT <= drawing.height


def test_no_edge_runs_through_a_box(store: Store, chain: Chain) -> None:
    drawing = Drawing(traced(store))
    boxes = list(drawing.boxes())
    for path in drawing.edges():
        # Where an edge passes a layer it is one upright line, at x.
        for x, top, bottom in re.findall(r"^M([\d.]+) ([\d.]+) V([\d.]+)", path):
            for box in boxes:
                beside = not box.x < float(x) < box.x + BOX_WIDTH
                assert beside or float(bottom) <= box.y or float(top) >= box.y + BOX_HEIGHT


class Reader(html.parser.HTMLParser):
    """Tags, and what an attribute would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(v) for k, v in attributes if k in ("href", "src", "action", "data")]


def test_the_page_is_escaped_and_fetches_nothing(store: Store, chain: Chain) -> None:
    text = page(traced(store), "T")
    assert "It&#39;s &lt;b&gt;7&lt;/b&gt; &amp;" in text
    reader = Reader()
    reader.feed(text)
    assert not set(reader.tags) & {"b", "script", "img", "link", "iframe"}
    steps = [link for link in reader.links if not link.startswith("#s")]
    assert len(reader.links) == 2 * len(steps)
    assert all(Path(url2pathname(urlsplit(link).path)).is_dir() for link in steps)
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    for artifact in chain.values():
        assert artifact.sha256 in text
    assert "leakage" in text and "temperature by calib" in text


def test_the_flowchart_names_every_step_and_edge(store: Store, chain: Chain) -> None:
    found = traced(store)
    text = mermaid(found)
    assert text.startswith("flowchart TD\n")
    assert "<b>" not in text and "#lt;b#gt;7#lt;/b#gt; #amp; #quot;more#quot; #35; #96;code" in text
    edges = re.findall(r"^  (s\d+) --> (s\d+)$", text, re.MULTILINE)
    assert len(edges) == sum(len(node.inputs) for node in found.steps)
    assert text.count('[("raw/') == 2


def test_a_step_of_which_a_gate_warns_is_yellow(store: Store, chain: Chain) -> None:
    judge(store, chain["student_dkd"], "of_note", passed=False, blocking=False)
    found = Traced((Tracer(store, raw_elsewhere=True).trace(chain["benchmark"]),))
    assert found.sound
    assert {box.lines[0]: box.state for box in Drawing(found).boxes()} == {
        node.item.key: "warned" if node.item.key == "student_dkd" else "sound"
        for node in found.steps
    }
    assert '"]:::warned' in mermaid(found)
    assert [node.to_json()["warns"] for node in found.steps if node.warns] == [["of_note"]]


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_a_browser_window(
    store: Store, chain: Chain, tmp_path: Path, width: int
) -> None:
    chromium = Path("/usr/bin/chromium")
    if not chromium.is_file():
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    path = tmp_path / "trace.html"
    path.write_text(page(traced(store), "T"))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 800})
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        view.click("svg a >> nth=-1")
        assert view.evaluate("location.hash") == "#s6"
        browser.close()
    assert asked == [path.as_uri()]
