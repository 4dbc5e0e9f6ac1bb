"""The evidence of a profile: up to date, passed on without faces, served behind the door."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from fer_assets import evidence
from fer_assets.cli import app
from fer_assets.evidence import Pages
from fer_assets.pipeline import Pipeline
from fer_ml.base.errors import FerError
from fer_ml.base.guard import Guard
from fer_ml.claims.trace import NothingToTrace

CLAIMS = """
version: 2
title: Rows
claims:
  - {id: rows, kind: number, sentence: "There are {value} rows.", asset: manifest/rafdb_basic,
     file: clean_report.json, pointer: /reports/0/rows_kept}
"""
SOURCE = "manifest/rafdb_basic"


@pytest.fixture(scope="module")
def pipeline(project: Callable[[str], Pipeline]) -> Pipeline:
    opened = project("tiny")
    opened.claims_file().write_text(CLAIMS)
    target = next(t for t in opened.targets() if t.asset == SOURCE)
    opened.make(target)
    opened.judge(target)
    return opened


def image(pipeline: Pipeline) -> str:
    return min(
        path.relative_to(pipeline.store.root).as_posix()
        for path in (pipeline.store.root / "cleaned").rglob("*.jpg")
    )


def test_pages_are_written_again_once_something_changed(pipeline: Pipeline) -> None:
    index = evidence.refresh(pipeline)
    assert "There are" in (index.parent / "claims" / "rows.html").read_text()
    kept = index.stat().st_ino
    assert evidence.refresh(pipeline).stat().st_ino == kept
    pipeline.claims_file().write_text(CLAIMS.replace("There are", "We have"))
    os.utime(pipeline.claims_file(), (2**31, 2**31))
    try:
        evidence.refresh(pipeline)
        assert "We have" in (index.parent / "claims" / "rows.html").read_text()
    finally:
        pipeline.claims_file().write_text(CLAIMS)


def test_a_folder_to_pass_on_has_faces_only_if_asked(pipeline: Pipeline, tmp_path: Path) -> None:
    index = evidence.export(pipeline, tmp_path / "out", (), faces=False)
    assert index == (tmp_path / "out" / "evidence" / "index.html").resolve()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evidence"]
    root = str(pipeline.store.root)
    named = [path for path in (tmp_path / "out").rglob("*.*") if root in path.read_text()]
    assert named == [], "a folder of this machine is named"
    evidence.export(pipeline, tmp_path / "out", (), faces=True)
    copies = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.jpg")}
    assert image(pipeline) in copies
    rows = pipeline.store.current(SOURCE)
    assert rows and len(copies) == rows.record.summary["rows"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(FerError) as caught:
        evidence.export(pipeline, tmp_path / "mine", (), faces=False)
    assert caught.value.where == str((tmp_path / "mine").resolve())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_no_folder_with_something_else_is_replaced(pipeline: Pipeline, tmp_path: Path) -> None:
    evidence.write(pipeline)
    root = pipeline.store.root
    evidence.export(pipeline, tmp_path / "paper", (), faces=False)
    (tmp_path / "paper" / "main.tex").write_text("mine")
    for folder in (root, root / "evidence", root / "new", root.parent, tmp_path / "paper"):
        with pytest.raises(FerError) as caught:
            evidence.export(pipeline, folder, (), faces=False)
        assert caught.value.where == str(folder.resolve())
    assert pipeline.store.current(SOURCE) is not None
    assert (tmp_path / "paper" / "main.tex").read_text() == "mine"


def test_a_face_is_found_by_its_pixels_and_by_no_pattern(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """A copy under any name is the same face; what only looks like a name of it is none."""
    path = image(pipeline)
    copy = tmp_path / "copy [x]*.jpg"
    copy.write_bytes((pipeline.store.root / path).read_bytes())
    told = [json.loads(traced(what, "--json").output) for what in (path, str(copy))]
    assert told[0] == told[1]
    (face,) = told[0]
    assert face["row"]["image_path"] == path
    assert face["splits"].keys() == {SOURCE}
    assert [(claim["id"], claim["counts"]) for claim in face["claims"]] == [("rows", True)]
    wrong = (f"{path[:-5]}*", f"{face['row']['sample_id'][:10]}[0-9a-f]", "0" * 32)
    for what in wrong:
        assert isinstance(traced(what).exception, NothingToTrace), what


def test_a_face_has_no_graph(pipeline: Pipeline, tmp_path: Path) -> None:
    done = traced(image(pipeline), "--html", str(tmp_path / "a.html"))
    assert isinstance(done.exception, FerError)
    assert not isinstance(done.exception, NothingToTrace)
    assert list(tmp_path.iterdir()) == []


def traced(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["trace", *arguments])


@pytest.fixture
def client(pipeline: Pipeline) -> TestClient:
    pages = Pages(PlainTextResponse("dagster"), pipeline)
    guarded = Guard(pages, token="t", port=80)
    return TestClient(guarded, base_url="http://localhost", cookies={"fer-80": "t"})


def test_the_pages_are_served_as_they_lie(client: TestClient, pipeline: Pipeline) -> None:
    assert client.get("/assets").text == "dagster"
    assert "There are" in client.get("/fer/evidence/").text
    page = client.get("/fer/evidence/claims/rows.html")
    assert page.status_code == 200 and page.headers["x-frame-options"] == "DENY"
    script = client.get("/fer/evidence/evidence.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert client.get(f"/fer/{image(pipeline)}").status_code == 200


def test_a_broken_claims_file_breaks_no_other_page(client: TestClient, pipeline: Pipeline) -> None:
    pipeline.claims_file().write_text("claims: [")
    try:
        told = client.get("/fer/evidence/")
        assert told.status_code == 500 and pipeline.claims_file().name in told.text
        start = client.get("/fer/")
        assert start.status_code == 200 and pipeline.claims_file().name in start.text
    finally:
        pipeline.claims_file().write_text(CLAIMS)
    assert client.get("/fer/evidence/").status_code == 200


def test_a_report_that_cannot_be_read_breaks_no_page(
    client: TestClient, pipeline: Pipeline
) -> None:
    with pipeline.store.begin("report") as run:
        run.write_text("report.html", "mine")
    pointer = pipeline.store.home("report") / "current.json"
    assert ">Open the report<" in client.get("/fer/?again").text
    pointer.write_text("{")
    try:
        start = client.get("/fer/?again")
        assert start.status_code == 200 and ">Open the report<" not in start.text
        assert client.get("/fer/evidence/").status_code == 200
    finally:
        shutil.rmtree(pointer.parent)


def test_who_looks_again_sees_in_the_evidence_what_nothing_told_of(
    client: TestClient, pipeline: Pipeline
) -> None:
    page = "/fer/evidence/claims/rows.html"
    assert "grounded" in client.get(page).text
    held = pipeline.store.current(SOURCE)
    assert held
    report = held.file("clean_report.json")
    data, times = report.read_bytes(), report.stat()
    report.write_bytes(data.replace(b"rows_kept", b"rows_kepT"))
    try:
        assert "drifted" not in client.get(page).text, "every byte is not read for each page"
        assert "/fer/evidence/claims/rows.html" in client.get("/fer/?again").text
        assert "drifted" in client.get(page).text
    finally:
        report.write_bytes(data)
        os.utime(report, ns=(times.st_atime_ns, times.st_mtime_ns))
        client.get("/fer/?again")


def test_nothing_else_of_the_root_is_served(client: TestClient, pipeline: Pipeline) -> None:
    held = pipeline.store.current(SOURCE)
    assert held
    record = f"{held.folder.relative_to(pipeline.store.root).as_posix()}/record.json"
    for path in (
        f"/fer/{record}",
        f"/fer/evidence/../{record}",
        f"/fer/evidence/%2e%2e/{record}",
        f"/fer/evidence/..%2f{record}",
        "/fer/drawn/",
        "/fer/evidence/%00",
    ):
        assert client.get(path).status_code in (400, 404), path
    assert client.post("/fer/evidence/index.html").status_code == 405


def test_the_door_is_before_the_pages(client: TestClient) -> None:
    client.cookies.clear()
    assert client.get("/fer/evidence/").status_code == 403


def test_faces_of_people_are_served_only_where_they_may_be_shown(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "shows_faces", False)
    client = TestClient(Pages(PlainTextResponse("dagster"), pipeline))
    assert client.get("/fer/evidence/").status_code == 200
    assert client.get(f"/fer/{image(pipeline)}").status_code == 404
