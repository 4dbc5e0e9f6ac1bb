"""What the asset pages show: answers, tables, pictures and claims, as pure functions."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import dagster as dg
import polars as pl
import pytest

from fer_assets.automation import Everything
from fer_assets.columns import COLUMNS, MANIFEST_COLUMNS
from fer_assets.keys import asset_of
from fer_assets.metadata import (
    MAX_INLINE_BYTES,
    artifact_metadata,
    claims_links,
    main_table,
    outcome_metadata,
)
from fer_assets.pages import (
    DOCS,
    MAX_CLAIMS,
    VIEWS,
    asset_path,
    claims_on,
    describe,
    downstream,
    view_path,
)
from fer_assets.pipeline import Pipeline
from fer_assets.repository import definitions_for
from fer_assets.stage import Need, Stage
from fer_assets.stages._training import RUN_GATES
from fer_ml.claims.model import ComparisonClaim
from fer_ml.manifests.schema import SCHEMA
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def sample(project: Callable[[str], Pipeline]) -> Pipeline:
    return project("sample")


@pytest.fixture(scope="module")
def definitions(sample: Pipeline) -> dg.Definitions:
    return definitions_for(sample)


def stage(asset: str, *needs: str) -> Stage:
    return Stage(
        asset=asset,
        group="manifests",
        kinds=("csv",),
        describe="",
        build="",
        needs=tuple(Need(need) for need in needs),
    )


#: a -> b -> d, a -> c, and e alone.
DIAMOND = {s.asset: s for s in (stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b"))} | {
    "e": stage("e")
}


def claim(name: str, asset: str) -> Any:
    return SimpleNamespace(id=name, assets=frozenset({asset}))


@pytest.mark.parametrize(
    ("asset", "expected"),
    [("a", {"a", "b", "c", "d"}), ("b", {"b", "d"}), ("d", {"d"}), ("e", {"e"})],
)
def test_downstream_is_everything_made_of_it(asset: str, expected: set[str]) -> None:
    assert downstream(DIAMOND, asset) == expected


def test_claims_on_an_asset_are_those_that_cite_what_is_made_of_it() -> None:
    claims = [claim("on-d", "d"), claim("on-c", "c"), claim("on-a", "a"), claim("gone", "x")]
    assert claims_on(DIAMOND, claims, "a") == ["on-d", "on-c", "on-a"]
    assert claims_on(DIAMOND, claims, "b") == ["on-d"]
    assert claims_on(DIAMOND, claims, "e") == []
    both = ComparisonClaim(
        id="both",
        kind="comparison",
        sentence="c is above a.",
        left="on-c",
        right="on-a",
        relation="above",
    )
    assert claims_on(DIAMOND, [*claims, both], "c") == ["on-c", "both"]
    assert claims_on(DIAMOND, [*claims, both], "d") == ["on-d"]


def test_every_page_answers_the_four_questions_and_links_to_pages_that_exist(
    sample: Pipeline,
) -> None:
    raw = {f"raw/{source.name}" for source in sample.profile.sources}
    known = {asset_path("sample", asset) for asset in (*sample.dagster_stages, *raw)}
    for found in sample.dagster_stages.values():
        text = describe(sample, found)
        assert text.startswith(found.describe)
        for question in ("Is it good?", "Made of:", "Rests on it:", "Claims on it:", "More:"):
            assert f"**{question}**" in text, found.asset
        (module,) = re.findall(r"by `(fer_assets\.stages\.\w+)`", text)
        assert importlib.util.find_spec(module), found.asset
        links = re.findall(r"\]\((/[^)?]*)", text)
        assert links and set(links) <= known, found.asset


def test_a_page_names_the_claims_that_rest_on_it_and_no_more_than_it_can_show(
    sample: Pipeline,
) -> None:
    soft = describe(sample, sample.stage("softlabels"))
    assert "`kd-temperature`" in soft and "`dkd-macro-f1`" in soft
    assert "`manifest-rows`" not in soft
    many = replace(sample)
    many.__dict__["claims"] = tuple(claim(f"c{i}", "softlabels") for i in range(MAX_CLAIMS + 3))
    text = describe(many, sample.stage("softlabels"))
    assert f"`c{MAX_CLAIMS - 1}` and 3 more" in text and f"`c{MAX_CLAIMS}`" not in text


def test_the_docs_that_pages_name_are_there(sample: Pipeline) -> None:
    assert {s.group for s in sample.stages.values()} <= set(DOCS)
    for path in (*DOCS.values(), "docs/reference.md"):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("name", VIEWS)
def test_the_views_select_what_they_say(
    sample: Pipeline, definitions: dg.Definitions, name: str
) -> None:
    selection, unfolded = VIEWS[name]
    graph = definitions.resolve_asset_graph()
    found = {asset_of(key) for key in dg.AssetSelection.from_string(selection).resolve(graph)}
    shown = sample.dagster_stages
    held = {
        "report claims": shown.keys() & (downstream_of_claims(sample) | {"report"}),
        "data health": {s.asset for s in shown.values() if s.group == "manifests"},
        "trained models": {s.asset for s in shown.values() if {"pytorch", "onnx"} & set(s.kinds)},
    }
    assert found == held[name]
    path = urlsplit(unquote(view_path(selection, unfolded)))
    assert (path.path if unfolded else path.query).rstrip("/").endswith(selection)
    assert set(unfolded) <= {stage.group for stage in shown.values()} | {"raw"}


def downstream_of_claims(pipeline: Pipeline) -> set[str]:
    """``report_claims`` and everything it rests on, by the recursive definition."""

    def above(asset: str) -> set[str]:
        needs = pipeline.stage(asset).needs
        return {asset}.union(*(above(need.asset) for need in needs))

    return above("report_claims")


def made(folder: Path, files: dict[str, bytes], summary: dict[str, Any] | None = None) -> Artifact:
    store = Store(folder, "sample")
    with store.begin("benchmark") as run:
        for name, data in files.items():
            run.path(name).write_bytes(data)
        run.summary.update(summary or {})
    artifact = store.current("benchmark")
    assert artifact
    return artifact


def test_pictures_stand_in_place_until_together_they_would_slow_the_page(tmp_path: Path) -> None:
    half = b"\x89PNG" + b"x" * (MAX_INLINE_BYTES // 2)
    artifact = made(tmp_path, {"a.png": half, "b.png": half, "c.png": b"\x89PNG small"})
    shown = artifact_metadata(artifact, faces=True)
    assert isinstance(shown["a"], dg.MarkdownMetadataValue)
    assert isinstance(shown["b"], dg.PathMetadataValue), "named, and not left out"
    assert isinstance(shown["c"], dg.MarkdownMetadataValue)
    inline = sum(len(v.value or "") for v in shown.values() if isinstance(v, dg.MetadataValue))
    assert inline < 1.4 * MAX_INLINE_BYTES + 2_000


def test_a_table_has_its_rows_and_columns_with_type_and_meaning(tmp_path: Path) -> None:
    artifact = made(tmp_path, {"benchmark.csv": b"model,n,macro_f1,other\na,3,0.5,\nb,4,0.25,\n"})
    shown = artifact_metadata(artifact, faces=True)
    assert shown["dagster/row_count"] == 2
    columns = {c.name: c for c in shown["dagster/column_schema"].columns}
    assert {name: c.type for name, c in columns.items()} == {
        "model": "String",
        "n": "Int64",
        "macro_f1": "Float64",
        "other": "String",
    }
    assert columns["n"].description == "rows that were scored"
    assert columns["other"].description is None


def test_a_manifest_is_its_own_table_with_the_types_of_its_schema(tmp_path: Path) -> None:
    header = pl.DataFrame(schema=SCHEMA).write_csv().encode()
    artifact = made(
        tmp_path, {"quarantine.csv": b"source\n", "mine.csv": header, "mine.parquet": b""}
    )
    assert main_table(artifact) == "mine.csv"
    shown = artifact_metadata(artifact, faces=True)
    assert shown["dagster/row_count"] == 0
    columns = shown["dagster/column_schema"].columns
    assert {c.name: c.type for c in columns} == {k: str(v) for k, v in SCHEMA.items()}
    assert all(column.description for column in columns)


def test_every_column_of_a_manifest_is_explained() -> None:
    assert set(MANIFEST_COLUMNS) == set(SCHEMA)
    assert all(COLUMNS.values())


def test_an_artifact_without_a_table_keeps_its_rows_as_a_number(tmp_path: Path) -> None:
    artifact = made(tmp_path, {"logits.npz": b"x"}, {"rows": 7, "f1": 1 / 3})
    assert main_table(artifact) is None
    shown = artifact_metadata(artifact, faces=True)
    assert (shown["rows"], shown["f1"]) == (7, 0.333333)
    assert "dagster/row_count" not in shown


def test_a_page_says_first_how_good_it_is_and_last_what_it_took(tmp_path: Path) -> None:
    summary = {"rows": 7, "cpu_seconds": 1.5, "val_macro_f1": 0.5}
    artifact = made(tmp_path, {"logits.npz": b"x", "curves.png": b"\x89PNG"}, summary)
    shown = list(artifact_metadata(artifact, faces=True))
    assert shown[:3] == ["val_macro_f1", "curves", "rows"]
    assert shown[-3:] == ["cpu_seconds", "peak_memory_mb", "peak_children_memory_mb"]


def entry(status: str) -> dict[str, Any]:
    return {
        "id": "rn18",
        "status": status,
        "sentence": "The teacher has 0.808.",
        "artifact": {"asset": "teacher", "partition": "RN18"},
        "rests_on": [
            {"asset": "teacher[RN18]", "sha256": "cc"},
            {"asset": "hq_train_manifest", "sha256": "aa"},
            {"asset": "raw/ferplus", "sha256": "bb"},
        ],
    }


@pytest.mark.parametrize(
    ("status", "mark"),
    [("grounded", "✓"), ("stale", "!"), ("drifted", "✗"), ("contradicted", "✗")],
)
def test_a_claim_has_a_coloured_status_and_links_to_everything_it_rests_on(
    status: str, mark: str
) -> None:
    text = claims_links("own", [entry(status)])
    assert text.startswith(f"- {mark} **{status}** `rn18`: The teacher has 0.808.")
    assert re.findall(r"\((/assets[^)]*)\)", text) == [
        "/assets/own/teacher?view=partitions&partition=RN18",
        "/assets/own/teacher?view=lineage&lineageScope=upstream",
        "/assets/own/hq_train_manifest",
        "/assets/own/raw/ferplus",
    ]
    assert "[Evidence](/fer/evidence/claims/rn18.html)" in text


def test_marks_of_the_reports_copy_lead_to_the_evidence_that_is_served(store: Store) -> None:
    with store.begin("report", None) as run:
        run.write_text("report.md", "It is 7. [c1 ✓](../../evidence/claims/a-1.html)\n")
    report = store.current("report")
    assert report
    shown = artifact_metadata(report, faces=False)["report"]
    assert shown.value == "It is 7. [c1 ✓](/fer/evidence/claims/a-1.html)\n"


FLOOR = next(gate for gate in RUN_GATES if gate.rule == "above_floor")


def test_a_check_without_a_measurement_says_so_as_text(tmp_path: Path) -> None:
    outcome = Outcome("above_floor", False, float("nan"), 0.143, "", ())
    shown = outcome_metadata(FLOOR, outcome, made(tmp_path, {}))
    assert shown["value"] == "nan", "NaN cannot be stored as a number"


def test_a_claim_without_an_artifact_says_so() -> None:
    text = claims_links("own", [{**entry("ungrounded"), "rests_on": []}])
    assert text.endswith("It names no artifact that is here.") and "!" in text


@pytest.mark.parametrize("passed", [True, False])
def test_a_check_shows_what_it_judged_and_the_fix_when_it_is_red(
    tmp_path: Path, passed: bool
) -> None:
    artifact = made(tmp_path, {}, {"rows": 7})
    outcome = Outcome("above_floor", passed, 0.1234567891, 0.143, "", ())
    shown = outcome_metadata(FLOOR, outcome, artifact)
    assert shown["folder"] == dg.MetadataValue.path(str(artifact.folder))
    assert (shown["sha256"], shown["rows"]) == (artifact.sha256, 7)
    assert (shown["value"], shown["limit"]) == (0.123457, 0.143)
    assert ("fix" in shown) is not passed


def test_the_launchpad_opens_with_every_field_filled_in_and_explained(
    definitions: dg.Definitions,
) -> None:
    job = definitions.resolve_job_def("everything")
    assert job.run_config
    assert job.run_config["ops"] == {"make_everything": {"config": {"select": "", "force": False}}}
    assert all(f.description for f in Everything.model_fields.values())


def test_every_check_can_be_run_from_the_page_without_making_its_asset(
    definitions: dg.Definitions,
) -> None:
    graph = definitions.resolve_asset_graph()
    assert graph.asset_check_keys
    for key in graph.asset_check_keys:
        assert graph.get_execution_set_asset_and_check_keys(key) == {key}
