"""The page that ``fer ui`` begins with."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from fer_assets import start
from fer_assets.digest import Digest, Entry, digest_of
from fer_assets.evidence import Pages
from fer_assets.pipeline import Pipeline
from fer_assets.start import address, headlines
from tests.fer_assets.test_evidence import CLAIMS, SOURCE


@pytest.fixture(scope="module")
def pipeline(project: Callable[[str], Pipeline]) -> Pipeline:
    opened = project("tiny")
    opened.claims_file().write_text(CLAIMS.replace("}\n", ", expected: 1}\n"))
    target = next(t for t in opened.targets() if t.asset == SOURCE)
    opened.make(target)
    opened.judge(target)
    return opened


def links(text: str) -> set[str]:
    return {unescape(link) for link in re.findall(r'href="([^"]+)"', text)}


def test_it_leads_to_what_is_not_green_and_is_kept_until_something_changes(
    pipeline: Pipeline,
) -> None:
    client = TestClient(Pages(PlainTextResponse("dagster"), pipeline))
    first = client.get("/fer/")
    assert first.status_code == 200
    assert {"/fer/evidence/claims/rows.html", "/asset-groups/"} <= links(first.text)
    held = pipeline.store.current(SOURCE)
    assert held
    image = min((pipeline.store.root / "cleaned").rglob("*.jpg"))
    data = image.read_bytes()
    image.write_bytes(b"x")
    try:
        assert client.get("/fer/").text == first.text
        again = client.get("/fer/?again").text
        assert f"/assets/tiny/{SOURCE}" in links(again) - links(first.text)
    finally:
        image.write_bytes(data)
    shutil.rmtree(held.folder / "receipts")
    try:
        unjudged = client.get("/fer/").text
        assert f"/assets/tiny/{SOURCE}?view=checks&checkDetail=quarantine_empty" in links(unjudged)
    finally:
        pipeline.judge(next(t for t in pipeline.targets() if t.asset == SOURCE))


def test_what_lies_in_the_root_leads_to_an_asset_by_its_name_alone(pipeline: Pipeline) -> None:
    client = TestClient(Pages(PlainTextResponse("dagster"), pipeline), follow_redirects=False)
    answer = client.get(f"/fer/assets/{SOURCE}")
    assert (answer.is_redirect, answer.headers["location"]) == (True, f"/assets/tiny/{SOURCE}")


def test_what_is_not_made_is_said_and_claims_that_do_not_hold_are_counted(
    pipeline: Pipeline,
) -> None:
    digest = digest_of(pipeline)
    told = [(figure.what, figure.value) for figure in headlines(pipeline, digest)]
    assert [value for _, value in told] == ["none", "none", "0 of 1"]
    held = replace(digest, entries=())
    assert list(headlines(pipeline, held))[-1].value == "1 of 1"


def test_a_bundle_that_no_gate_has_passed_has_no_headline(pipeline: Pipeline) -> None:
    card = {"name": "x", "metrics": {"test_all_sources": {"macro_f1": 0.99}}}
    with pipeline.store.begin("student_bundle") as run:
        run.write_json("card.json", card)
    assert next(headlines(pipeline, digest_of(pipeline))).value == "none"


def test_a_headline_says_that_its_faces_were_looked_at(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"since": "2020-01-02", "decided": ["student_ce"]}
    scores = {"macro_f1": 0.5, "accuracy": 0.6, "n": 9, "looked_before": seen}
    card = {"name": "x", "metrics": {"test_all_sources": scores}}
    monkeypatch.setattr(start, "_read", lambda *_: card)
    more = next(headlines(pipeline, digest_of(pipeline))).more
    assert more == (
        "n = 9, accuracy 0.600, drawn faces; looked at before (since 2020-01-02): student_ce "
        "decided after"
    )


@pytest.mark.parametrize(
    ("kind", "name", "leads"),
    [
        ("asset", "student_ce", "/assets/own/student_ce"),
        ("asset", "teacher[B3]", "/assets/own/teacher?view=partitions&partition=B3"),
        (
            "gate",
            "teacher[B3] above_floor",
            "/assets/own/teacher?view=checks&checkDetail=above_floor",
        ),
        ("raw", "raw/ferplus", "/assets/own/raw/ferplus"),
        ("claim", "dkd-macro-f1", "/fer/evidence/claims/dkd-macro-f1.html"),
        ("claim", "claims/sample.yaml", "/fer/evidence/"),
    ],
)
def test_an_entry_leads_to_its_page(kind: str, name: str, leads: str) -> None:
    assert address("own", Entry("red", kind, name, "", "")) == leads  # type: ignore[arg-type]


def test_a_digest_that_is_sent_leads_nowhere(pipeline: Pipeline) -> None:
    digest: Digest = digest_of(pipeline)
    assert all(link.startswith("#") for link in links(digest.page()))
