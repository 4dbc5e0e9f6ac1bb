"""Statuses of claims of every kind, over a small store made by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest

from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.resolve import Resolver
from fer_ml.claims.resolved import Resolved, upstream_assets
from fer_ml.claims.trace import Tracer
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import Store
from tests.fer_ml.claims.conftest import BENCHMARK, PNG, RECIPE, Put, judge

Chain = dict[str, Artifact]
BASE = {"sentence": "It is {value}."}
AT = {**BASE, "asset": "benchmark", "file": "benchmark.json"}
CE, KD, OTHER = "/entries/ce/all", "/entries/kd/all", "/entries/other/all"


def number(pointer: str = f"{CE}/acc", **changes: Any) -> dict[str, Any]:
    return {"kind": "number", **AT, "pointer": pointer, **changes}


def resolve_all(store: Store, *claims: dict[str, Any]) -> list[Resolved]:
    named = [{"id": f"c{i}", **claim} for i, claim in enumerate(claims)]
    held = ClaimsFile.model_validate({"version": "2", "title": "T", "claims": named})
    return Resolver(Tracer(store)).all(held)


def resolve(store: Store, claim: dict[str, Any], *others: dict[str, Any]) -> Resolved:
    return resolve_all(store, claim, *others)[0]


def test_a_number_on_rows_that_were_looked_at_says_so(store: Store, chain: Chain, put: Put) -> None:
    assert resolve(store, number()).looked_before == ""
    benchmark = copy.deepcopy(BENCHMARK)
    mark = {"since": "2026-11-01T10:00:00Z", "decided": ["student_ce"]}
    benchmark["entries"]["ce"]["all"]["looked_before"] = mark
    put("benchmark", {"benchmark.json": benchmark}, [chain["student_dkd"].as_input()])
    told = resolve(store, number()).looked_before
    assert "2026-11-01" in told and "student_ce" in told
    pairs = "set,split,n,model_a,difference\nall,test,10,ce,0.25\nval,val,9,ce,0.5\n"
    put("benchmark", {"benchmark.json": benchmark, "pairs.csv": pairs})
    row = number("", file="pairs.csv", take="mean", column="difference", expected="0.25")
    of_all, of_val = ({**row, "where": {"set": name}} for name in ("all", "val"))
    assert resolve(store, of_all).looked_before == told
    assert resolve(store, of_val).looked_before == ""


def test_grounded_down_to_the_raw_folders(store: Store, chain: Chain) -> None:
    found = resolve(
        store,
        number(
            expected="0.80",
            evaluation={"manifest": "classification_manifest", "split": "test", "n": 10},
        ),
    )
    assert (found.status, found.reason, found.value) == ("grounded", "", 0.8)
    assert found.sentence() == "It is 0.80."
    told = found.to_json()
    held = chain["benchmark"]
    assert told["artifact"] == {
        "asset": "benchmark",
        "partition": None,
        "file": "benchmark.json",
        "pointer": f"{CE}/acc",
        "sha256": held.sha256,
        "recipe_sha256": held.record.recipe_sha256,
        "file_sha256": held.record.files["benchmark.json"].sha256,
        "materialization": held.folder.name,
        "run_id": "r1",
        "created_at": held.record.created_at,
        "code_version": "1",
    }
    assert told["measured_on"] == {
        "manifest": "classification_manifest",
        "manifest_sha256": "2" * 64,
        "split": "test",
        "n": 10,
    }
    assert upstream_assets(told) == [
        "benchmark",
        "student_dkd",
        "classification_manifest",
        "manifest/a",
        "manifest/b",
        "raw/a",
        "raw/b",
    ]
    assert set(told["raw"]) == {"raw/a", "raw/b"}
    assert told["splits"]["benchmark: temperature"] == "calib"


def test_which_claims_rest_on_an_artifact(store: Store, chain: Chain) -> None:
    source = {**number("/rows"), "asset": "manifest/a", "file": "clean_report.json"}
    entries = [r.to_json() for r in resolve_all(store, number(), source)]
    a, run = chain["manifest/a"], chain["student_dkd"]
    for artifact, ids in ((a, ["c0", "c1"]), (run, ["c0"])):
        wanted = {"asset": artifact.key, "sha256": artifact.sha256}
        assert [e["id"] for e in entries if wanted in e["rests_on"]] == ids


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (number(asset="report"), "report is not known here"),
        (number(asset="benchmrk"), "benchmrk is not known here"),
        (number(partition="RN18"), "benchmark[RN18] has not been made"),
        (number(file="no.json"), "has no file 'no.json'"),
        (number(file="../../x.json"), "has no file '../../x.json'"),
        (number(file="notes.txt"), "notes.txt is not JSON"),
        (number(file="broken.json"), "broken.json: not JSON"),
        (number("/no"), "nothing at /no"),
        (number("/text"), "no number at /text"),
        (number("/flag"), "no number at /flag"),
        (number("/parts"), "no number at /parts"),
        (number(""), "no number at "),
        (number(kind="proportion", n="/no"), "nothing at /no"),
        (number("/total", kind="sum", parts=("/parts/a", "/parts/c")), "nothing at /parts/c"),
        (
            number("/total", evaluation={"manifest": "m", "split": "val", "n": 10}),
            "on which manifest",
        ),
        (number("", file="benchmark.csv"), "benchmark.csv is not JSON"),
        (number("", take="count"), "benchmark.json is not a csv"),
        (number("", file="benchmark.csv", take="mean", column="no"), "no column 'no'"),
        (number("", file="benchmark.csv", take="mean", column="model"), "'ce' in column model"),
        (
            number("", file="benchmark.csv", take="max", column="f1", where={"model": "none"}),
            "no row of benchmark.csv matches",
        ),
        ({"kind": "number", **BASE, "expected": "0.8"}, "it names no artifact"),
        ({"kind": "figure", **BASE}, "it names no artifact"),
        ({"kind": "figure", **BASE, "asset": "benchmark", "file": "x.png"}, "no file x.png"),
        (
            {"kind": "configuration", **BASE, "asset": "student_dkd", "settings": {"/no": "1"}},
            "nothing at /no",
        ),
        (
            {"kind": "formula", **BASE, "asset": "benchmark", "formula": "ce", "says": "CE"},
            "nothing at /training/task",
        ),
    ],
)
def test_what_points_to_nothing_is_ungrounded(
    store: Store, chain: Chain, claim: dict[str, Any], reason: str
) -> None:
    found = resolve(store, claim)
    assert found.status == "ungrounded"
    assert reason in found.reason
    assert found.to_json()["status"] == "ungrounded"


ROWS = {"rows": {"CE": CE, "KD": KD}, "columns": {"acc": "/acc", "f1": "/f1"}}
TABLE = {"kind": "table", **AT, **ROWS}
DKD = {"kind": "formula", **BASE, "asset": "student_dkd", "formula": "dkd"}
SETTINGS = {
    "/training/epochs": "20",
    "/training/task/nckd_weight": "2",
    "/training/task/kind": "dkd",
    "/training/compile": "false",
    "/training/negative": None,
}


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (number(kind="proportion", n=f"{CE}/n"), 0.8),
        (number(kind="proportion", n="10", expected="0.8"), 0.8),
        (number("/total", kind="sum", parts=("/parts/a", "/parts/b"), expected="7"), 7),
        (number("/total", kind="sum", parts=("3", "/parts/b")), 7),
        (
            number(
                f"{CE}/by/s/acc",
                evaluation={"manifest": "classification_manifest", "split": "test", "n": 4},
            ),
            0.5,
        ),
        (number("", file="benchmark.csv", take="count", where={"split": "test"}), 2),
        (number("", file="benchmark.csv", take="max", column="f1", expected="0.81"), 0.81),
        (number("", file="benchmark.csv", take="sum", column="n"), 40),
        (
            number(
                "",
                file="benchmark.csv",
                take="mean",
                column="f1",
                where={"split": "test"},
                expected="0.755",
            ),
            0.755,
        ),
        (
            {
                "kind": "range",
                **AT,
                "over": (f"{CE}/f1", f"{KD}/f1"),
                "low": "0.75",
                "high": "0.760",
            },
            {"low": 0.7519, "high": 0.7604},
        ),
        (
            {**TABLE, "expected": {"CE": ["0.80", "0.752"], "KD": ["0.90", "0.760"]}},
            {"CE": {"acc": 0.8, "f1": 0.7519}, "KD": {"acc": 0.9, "f1": 0.7604}},
        ),
        ({"kind": "configuration", **BASE, "asset": "student_dkd", "settings": SETTINGS}, None),
        ({**DKD, "says": "a*CE + T^2*(a*TCKD + 2*NCKD)", "symbols": {"a": "0.5"}}, None),
        ({"kind": "figure", **BASE, "asset": "student_dkd", "file": "curves.png"}, None),
    ],
)
def test_what_holds(store: Store, chain: Chain, claim: dict[str, Any], value: Any) -> None:
    found = resolve(store, claim)
    assert (found.status, found.reason) == ("grounded", "")
    assert found.value == value
    assert found.traces


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (number(expected="0.81"), "the artifact holds 0.8, the claim says 0.81"),
        (number(f"{CE}/f1", expected="0.740"), "the artifact holds 0.7519"),
        (number(kind="proportion", n="/total"), "0.8 is not k/7"),
        (number("/total", kind="sum", parts=("/parts/a", "/parts/a")), "add up to 6, not 7"),
        (number("/total", kind="sum", parts=("/total",), expected="8"), "the claim says 8"),
        (
            number(evaluation={"manifest": "classification_manifest", "split": "val", "n": 10}),
            "measured on split test, the claim says val",
        ),
        (
            number(evaluation={"manifest": "classification_manifest", "split": "test", "n": 9}),
            "measured on n 10, the claim says 9",
        ),
        (
            number(evaluation={"manifest": "hq", "split": "test", "n": 10}),
            "measured on manifest classification_manifest, the claim says hq",
        ),
        (
            {
                "kind": "range",
                **AT,
                "over": (f"{CE}/f1", f"{KD}/f1"),
                "low": "0.74",
                "high": "0.76",
            },
            "the lowest is 0.7519, the claim says 0.74",
        ),
        (
            {**TABLE, "expected": {"CE": ["0.80", "0.752"], "KD": ["0.90", "0.770"]}},
            "KD, f1: the artifact holds 0.7604, the claim says 0.770",
        ),
        (
            {
                "kind": "configuration",
                **BASE,
                "asset": "student_dkd",
                "settings": {"/training/task/nckd_weight": "4"},
            },
            "/training/task/nckd_weight is 2.0 in the run's recipe, not 4",
        ),
        (
            {
                "kind": "configuration",
                **BASE,
                "asset": "student_dkd",
                "settings": {"/training/compile": "true"},
            },
            "is false in the run's recipe, not true",
        ),
        ({**DKD, "formula": "kd", "says": "CE"}, "the run's recipe has dkd there"),
        ({**DKD, "formula": "negative", "says": "p"}, "the run's recipe has null there"),
        ({**DKD, "says": "0.5*CE + T^2*(0.5*TCKD + 4*NCKD)"}, "the text's formula gives"),
        ({**DKD, "says": "0.5*CE + T^2*(0.5*TCKD + 2*NCKD)", "symbols": {"T": "2"}}, "the code's"),
        (
            {
                "kind": "figure",
                **BASE,
                "asset": "student_dkd",
                "file": "curves.png",
                "sha256": "0" * 64,
            },
            "another file",
        ),
    ],
)
def test_what_does_not_fit_is_contradicted(
    store: Store, chain: Chain, claim: dict[str, Any], reason: str
) -> None:
    found = resolve(store, claim)
    assert found.status == "contradicted"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("claim", "status", "reason"),
    [
        ({"kind": "sum", "expected": "7", "parts": ("3", "4")}, "grounded", "arithmetic"),
        ({"kind": "sum", "expected": "8", "parts": ("3", "4")}, "contradicted", "7, not 8"),
        ({"kind": "proportion", "expected": "0.333", "n": "3"}, "grounded", "arithmetic"),
        ({"kind": "proportion", "expected": "0.334", "n": "3"}, "contradicted", "k/3"),
        ({"kind": "range", "over": ("1", "2"), "low": "1", "high": "2"}, "grounded", "arithmetic"),
        ({"kind": "range", "over": ("1", "2"), "low": "1", "high": "3"}, "contradicted", "highest"),
        ({"kind": "configuration", "settings": {"/a": "1"}}, "ungrounded", "no artifact"),
        ({"kind": "formula", "formula": "ce", "says": "CE"}, "ungrounded", "no artifact"),
        (
            {"kind": "table", "columns": {"a": "/a"}, "expected": {"r": ["1"]}},
            "ungrounded",
            "no artifact",
        ),
    ],
)
def test_what_the_text_alone_decides(
    store: Store, claim: dict[str, Any], status: str, reason: str
) -> None:
    found = resolve(store, {**BASE, **claim})
    assert found.status == status
    assert reason in found.reason
    assert found.to_json()["rests_on"] == []


def against(relation: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "comparison",
        **BASE,
        "left": "c1",
        "right": "c2",
        "relation": relation,
        **changes,
    }


@pytest.mark.parametrize(
    ("left", "right", "claim", "status", "reason"),
    [
        (KD, CE, against("above"), "grounded", ""),
        (KD, CE, against("above", by="0.0085"), "grounded", ""),
        (KD, CE, against("above", by="0.0095"), "contradicted", "the difference is 0.0085"),
        (KD, CE, against("below"), "contradicted", "c1 minus c2 is 0.0085"),
        (KD, KD, against("at_least"), "grounded", ""),
        (KD, KD, against("above"), "contradicted", "is 0"),
        (KD, OTHER, against("below"), "not_comparable", "split: test and val; n: 10 and 20"),
    ],
)
def test_comparisons_need_the_guard(
    store: Store,
    chain: Chain,
    left: str,
    right: str,
    claim: dict[str, Any],
    status: str,
    reason: str,
) -> None:
    sides = (number(f"{left}/f1"), number(f"{right}/f1"))
    found = resolve(store, claim, *sides)
    assert found.status == status
    assert reason in found.reason
    assert {n.item.key for n in found.traces} == {"benchmark"}


def test_a_number_that_is_no_entry_of_the_benchmark_compares_to_nothing(
    store: Store, chain: Chain
) -> None:
    found = resolve(store, against("above"), number(f"{KD}/f1"), number("/total"))
    assert found.status == "not_comparable"
    assert "c2 is not an entry of the benchmark" in found.reason


def test_a_comparison_is_no_better_than_its_sides(store: Store, chain: Chain) -> None:
    sides = (number(f"{KD}/f1"), number(f"{CE}/f1", expected="0.9"))
    assert resolve(store, against("above"), *sides).status == "contradicted"
    judge(store, chain["benchmark"], "every_row_scored", passed=False)
    sides = (number(f"{KD}/f1"), number(f"{CE}/f1"))
    found = resolve(store, against("above"), *sides)
    assert (found.status, found.value) == ("stale", {"left": 0.7604, "right": 0.7519})
    (chain["benchmark"].folder / "notes.txt").write_text("edited")
    found = resolve(store, against("above"), *sides)
    assert (found.status, found.value) == ("drifted", None)


@pytest.mark.parametrize(
    ("relation", "status"),
    [
        ("above", "grounded"),
        ("at_least", "grounded"),
        ("below", "contradicted"),
        ("at_most", "contradicted"),
    ],
)
def test_numbers_of_artifacts_are_compared_as_they_are(
    store: Store, chain: Chain, relation: str, status: str
) -> None:
    """However coarsely they are printed: 0.7604 and 0.7519 are both 0.8."""
    sides = (number(f"{KD}/f1", expected="0.8"), number(f"{CE}/f1", expected="0.8"))
    assert resolve(store, against(relation), *sides).status == status
    inverse = {"above": "below", "below": "above", "at_least": "at_most", "at_most": "at_least"}
    assert resolve(store, against(inverse[relation]), *reversed(sides)).status == status


def text_only(expected: str, split: str, n: int) -> dict[str, Any]:
    return {
        "kind": "number",
        **BASE,
        "expected": expected,
        "evaluation": {"manifest": "m", "split": split, "n": n},
    }


@pytest.mark.parametrize(
    ("left", "right", "relation", "status"),
    [
        (("0.66", "test", 10), ("0.79", "val", 5), "below", "not_comparable"),
        (("0.66", "test", 10), ("0.79", "test", 10), "below", "ungrounded"),
        (("0.66", "test", 10), ("0.79", "test", 10), "above", "contradicted"),
        (("0.66", "test", 10), ("0.66", "test", 10), "above", "ungrounded"),
        # Each may be off by half of its last digit.
        (("0.66", "test", 10), ("0.67", "test", 10), "above", "contradicted"),
        (("0.66", "test", 10), ("0.67", "test", 10), "at_least", "ungrounded"),
        (("0.66", "test", 10), ("0.68", "test", 10), "at_least", "contradicted"),
        (("0.67", "test", 10), ("0.66", "test", 10), "below", "contradicted"),
        (("0.67", "test", 10), ("0.66", "test", 10), "at_most", "ungrounded"),
        (("0.68", "test", 10), ("0.66", "test", 10), "at_most", "contradicted"),
    ],
)
def test_comparisons_in_the_text_alone(
    store: Store, left: Any, right: Any, relation: str, status: str
) -> None:
    found = resolve(store, against(relation), text_only(*left), text_only(*right))
    assert found.status == status


def test_comparable_with_is_the_guard_without_a_relation(store: Store, chain: Chain) -> None:
    kd, other = number(f"{KD}/f1"), number(f"{OTHER}/f1")
    assert resolve(store, number(comparable_with=["c1"]), kd).status == "grounded"
    found = resolve(store, number(comparable_with=["c1", "c2"]), kd, other)
    assert found.status == "not_comparable"
    assert found.reason.startswith("with c2: split: test and val")
    text = {"kind": "number", **BASE, "expected": "0.5"}
    found = resolve(store, number(comparable_with=["c1"]), text)
    assert (found.status, found.reason) == ("not_comparable", "with c1: c1 has no artifact")
    wrong = number(expected="0.1", comparable_with=["c1"])
    assert resolve(store, wrong, other).status == "contradicted"


def test_rows_of_a_table_must_be_comparable(store: Store, chain: Chain) -> None:
    found = resolve(store, {**TABLE, "rows": {"CE": CE, "other": OTHER}})
    assert found.status == "not_comparable"
    assert "n: 10 and 20" in found.reason


def test_a_table_over_several_artifacts(store: Store, put: Put, chain: Chain) -> None:
    for name in ("RN18", "B3"):
        put("teacher", {"m.json": {"f1": 0.5, "split": "val", "n": 4}}, partition=name)
    rows = {n: {"asset": "teacher", "partition": n, "file": "m.json"} for n in ("RN18", "B3")}
    found = resolve(store, {"kind": "table", **BASE, "rows": rows, "columns": {"f1": "/f1"}})
    assert found.status == "grounded"
    assert {node.item.key for node in found.traces} == {"teacher[RN18]", "teacher[B3]"}
    judge(store, chain["benchmark"], "every_row_scored")
    (found.traces[1].artifact.folder / "m.json").write_text("{}")  # type: ignore[union-attr]
    found = resolve(store, {"kind": "table", **BASE, "rows": rows, "columns": {"f1": "/f1"}})
    assert found.status == "drifted"


def test_the_figure_is_the_artifacts_file(store: Store, chain: Chain) -> None:
    sha256 = chain["student_dkd"].record.files["curves.png"].sha256
    claim = {"kind": "figure", **BASE, "asset": "student_dkd", "file": "curves.png"}
    assert resolve(store, {**claim, "sha256": sha256}).status == "grounded"
    path = chain["student_dkd"].folder / "curves.png"
    path.write_bytes(PNG[:-1] + b"x")
    assert resolve(store, {**claim, "sha256": sha256}).status == "drifted"


def test_an_edited_recipe_drifts(store: Store, chain: Chain) -> None:
    claim = {
        "kind": "configuration",
        **BASE,
        "asset": "student_dkd",
        "settings": {"/training/epochs": "20"},
    }
    assert resolve(store, claim).status == "grounded"
    path = chain["student_dkd"].folder / "record.json"
    path.write_text(path.read_text().replace('"epochs": 20', '"epochs": 30'))
    found = resolve(store, {**claim, "settings": {"/training/epochs": "30"}})
    assert found.status == "drifted"
    assert "its seal does not follow" in found.reason


def test_the_recipes_own_temperature_comes_before_the_derived_one(store: Store, put: Put) -> None:
    recipe = copy.deepcopy(RECIPE)
    recipe["training"]["task"]["temperature"] = 4.0  # type: ignore[index]
    put("student_dkd", {"training.json": {"kd_temperature": 2.5}}, recipe=recipe)
    says = "0.5*CE + T^2*(0.5*TCKD + 2*NCKD)"
    assert resolve(store, {**DKD, "says": says, "symbols": {"T": "4"}}).status == "grounded"
    assert resolve(store, {**DKD, "says": says, "symbols": {"T": "2.5"}}).status == "contradicted"


def test_numbers_that_no_float_holds_are_none(store: Store, put: Put) -> None:
    put("benchmark", {"benchmark.json": '{"a": 1' + "0" * 400 + ', "b": 1e999, "c": NaN}'})
    for pointer in ("/a", "/b", "/c"):
        assert resolve(store, number(pointer)).status == "ungrounded"


def test_the_order_of_the_file_is_kept(store: Store, chain: Chain) -> None:
    found = resolve_all(store, number(), against("above", right="c0", left="c2"), number())
    assert [r.claim.id for r in found] == ["c0", "c1", "c2"]
    assert BENCHMARK["total"] == 7 and Path(chain["benchmark"].folder).is_dir()


GAPS = {
    "kd": {"difference": -0.01, "low": -0.02, "high": 0.005},
    "one": {"difference": -0.001, "low": None, "high": None},
}
CSV = "model,difference,low,high\nkd,-0.01,-0.02,0.005\n"


def non_inferiority(margin: str, worse: str = "below", arm: str = "kd") -> dict[str, Any]:
    return {
        "kind": "non_inferiority",
        **BASE,
        "asset": "comparison/it",
        "file": "comparison.json",
        "pointer": f"/against_baseline/{arm}/difference",
        "margin": margin,
        "worse": worse,
    }


@pytest.mark.parametrize(
    ("claim", "status", "reason"),
    [
        (non_inferiority("0.021"), "grounded", ""),
        # The difference is within the margin, and the interval is not.
        (non_inferiority("0.015"), "contradicted", "-0.02, beyond 0.015"),
        (non_inferiority("0.02"), "contradicted", "-0.02, beyond 0.02"),
        (non_inferiority("0.006", "above"), "grounded", ""),
        (non_inferiority("0.005", "above"), "contradicted", "0.005, beyond 0.005"),
        (non_inferiority("0.015", arm="one"), "ungrounded", "/one/low"),
        (non_inferiority("0.021") | {"expected": "-0.012"}, "contradicted", "-0.012"),
    ],
)
def test_non_inferiority_needs_the_bound_of_an_interval(
    store: Store, put: Put, claim: dict[str, Any], status: str, reason: str
) -> None:
    put("comparison/it", {"comparison.json": {"against_baseline": GAPS}})
    found = resolve(store, claim)
    assert found.status == status and reason in found.reason


def test_non_inferiority_reads_a_row_of_pairs(store: Store, put: Put) -> None:
    put("benchmark", {"pairs.csv": CSV})
    row = {"take": "mean", "column": "difference", "where": {"model": "kd"}}
    claim = {"kind": "non_inferiority", **BASE, "asset": "benchmark", "file": "pairs.csv", **row}
    assert resolve(store, {**claim, "margin": "0.03", "worse": "below"}).status == "grounded"
    assert resolve(store, {**claim, "margin": "0.02", "worse": "below"}).status == "contradicted"
    put("benchmark", {"pairs.csv": CSV + "ce,-0.015,-0.016,-0.001\n"})
    of_two = {**claim, "where": {}, "take": "max", "margin": "0.03", "worse": "below"}
    found = resolve(store, of_two)
    assert found.status == "ungrounded" and "2 rows of pairs.csv match" in found.reason


def test_unequal_budgets_are_said_or_refused(store: Store, put: Put) -> None:
    """Six epochs beside fifty: only where the claim says so."""
    entries = copy.deepcopy(BENCHMARK)
    entries["entries"]["ce"]["all"]["epochs"] = 6
    entries["entries"]["kd"]["all"]["epochs"] = 50
    put("benchmark", {"benchmark.json": entries})
    above = {"kind": "comparison", **BASE, "left": "c1", "right": "c0", "relation": "above"}
    table = {"kind": "table", **AT, "rows": {"ce": CE, "kd": KD}, "columns": {"acc": "/acc"}}
    beside = number(f"{KD}/acc", comparable_with=["c0"])
    for said, statuses in (
        ({}, ["not_comparable"] * 3),
        ({"unequal_budgets": "true"}, ["grounded"] * 3),
    ):
        asked = [{**claim, **said} for claim in (table, beside, above)]
        found = resolve_all(store, number(), number(f"{KD}/acc"), *asked)
        assert [claim.status for claim in found[2:]] == statuses
