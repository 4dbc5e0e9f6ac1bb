"""The claims file is checked at the door."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.base.errors import FerError
from fer_ml.claims.model import (
    ClaimsFile,
    ComparisonClaim,
    ConfigurationClaim,
    read_claims,
    schema,
)
from tests.refusals import refused

ROOT = Path(__file__).parent.parent.parent.parent
CLAIM = """
  - id: {id}
    kind: number
    sentence: "Accuracy is {{value}}."
    asset: benchmark
    file: benchmark.json
    pointer: /a/b
"""
HEAD = "version: 2\ntitle: T\nclaims:"
GOOD = HEAD + CLAIM.format(id="one") + CLAIM.format(id="two")
OLD = "version: 1\ntitle: T\nclaims:" + CLAIM.format(id="one").replace("    kind: number\n", "")
OLD += "    expected: 0.74\n    decimals: 3\n"
START = "  - id: x\n    sentence: S\n    "


def read(tmp_path: Path, text: str | bytes) -> ClaimsFile:
    path = tmp_path / "claims.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_claims(path)


def test_a_good_file(tmp_path: Path) -> None:
    held = read(tmp_path, GOOD + "    expected: 0.740\n")
    assert [claim.id for claim in held.claims] == ["one", "two"]
    assert held.claims[1].expected == "0.740"  # type: ignore[union-attr]
    assert held.cited == {"benchmark"}


def test_a_file_from_any_editor(tmp_path: Path) -> None:
    """With a byte order mark and CR LF, as editors of Windows write them."""
    folded = GOOD.replace("title: T", "title: >\n  T\n  and more")
    held = read(tmp_path, b"\xef\xbb\xbf" + folded.replace("\n", "\r\n").encode())
    assert held == read(tmp_path, folded)
    assert held.title == "T and more\n"


def test_version_1_is_read_as_version_2(tmp_path: Path) -> None:
    (claim,) = read(tmp_path, OLD).claims
    assert claim.kind == "number"
    assert claim.expected == "0.740"


@pytest.mark.parametrize("path", sorted((ROOT / "claims").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_projects_own_files_are_good(path: Path) -> None:
    assert read_claims(path).claims


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("two", "one"), "ids stand twice: one"),
        (GOOD.replace("version: 2", "version: 3"), "newer platform"),
        (GOOD.replace("version: 2\n", ""), "begin it with: version: 2"),
        (OLD.replace("0.74", "1e999999999"), "is not valid in version 1"),
        (OLD.replace("0.74", "x"), "is not valid in version 1"),
        ("version: 1\ntitle: T\nclaims: [1]\n", "is not valid in version 1"),
        (GOOD + "    colour: red\n", "claims.1 (two) colour: Extra inputs"),
        (GOOD + "extra: 1\n", "extra"),
        (GOOD.replace("pointer: /a/b", "pointer: a/b"), "claims.0 (one) pointer"),
        (GOOD.replace("id: two", "id: Two!"), "claims.1 (Two!) id"),
        (GOOD.replace("    asset: benchmark\n", "", 1), "asset and file go together"),
        (GOOD.replace("asset: benchmark", "asset: ../secret", 1), "claims.0 (one) asset"),
        (GOOD.replace("asset: benchmark", "asset: a/..", 1), "claims.0 (one) asset"),
        (GOOD + "    partition: ../x\n", "claims.1 (two) partition"),
        (GOOD + "    decimals: 13\n", "claims.1 (two) decimals"),
        (GOOD + "    decimals: 1\n    expected: 0.7\n", "decimals goes with"),
        (GOOD + "    kind: proportion\n", "key 'kind' stands twice"),
        (GOOD + "    expected: many\n", "claims.1 (two) expected"),
        (GOOD + "    expected: 1e3\n", "claims.1 (two) expected"),
        (GOOD + "    take: mean\n", "take reads a csv, pointer reads JSON"),
        (GOOD + "    column: f1\n", "column and where go with take"),
        (GOOD + "    comparable_with: [three]\n", "two is held against 'three'"),
        (GOOD + "    comparable_with: [two]\n", "two is held against 'two'"),
        (GOOD + "    evaluation: {manifest: m, split: dev, n: 3}\n", "evaluation.split"),
        (GOOD + "    evaluation: {manifest: m, split: val, n: 0}\n", "evaluation.n"),
        (GOOD.replace("kind: number", "kind: number?", 1), "claims.0 (one)"),
        (HEAD + " []", "claims"),
        (f"{HEAD}\n{START}kind: number", "needs what the text prints, as expected"),
        (f"{HEAD}\n{START}kind: proportion\n    expected: 0.5", "claims.0 (x) n"),
        (
            f"{HEAD}\n{START}kind: proportion\n    expected: 0.5\n    n: /n",
            "needs the claim's asset",
        ),
        (f"{HEAD}\n{START}kind: sum\n    expected: 1\n    parts: []", "claims.0 (x) parts"),
        (f"{HEAD}\n{START}kind: sum\n    expected: 1\n    parts: [a/n]", "claims.0 (x) parts"),
        (f"{HEAD}\n{START}kind: range\n    over: [1]\n    low: 1", "claims.0 (x) high"),
        (f"{HEAD}\n{START}kind: range\n    over: [1]\n    low: 0.8\n    high: 0.7", "is above"),
        (
            f"{HEAD}\n{START}kind: range\n    over: [1]\n    low: 1\n    high: 1\n"
            "    asset: a\n    file: b.json",
            "no pointer reads the claim's asset and file",
        ),
        (f"{HEAD}\n{START}kind: figure\n    partition: a", "partition goes with an asset"),
        (f"{HEAD}\n{START}kind: table\n    columns: {{a: /a}}", "a table needs rows"),
        (
            f"{HEAD}\n{START}kind: table\n    columns: {{a: /a}}\n    expected: {{r: [1, 2]}}",
            "row r has 2 cells, 1 columns",
        ),
        (f"{HEAD}\n{START}kind: configuration\n    settings: {{}}", "claims.0 (x) settings"),
        (f"{HEAD}\n{START}kind: configuration\n    settings: {{a: 1}}", "claims.0 (x) settings"),
        (f"{HEAD}\n{START}kind: formula\n    formula: x\n    says: CE", "unknown formula 'x'"),
        (f"{HEAD}\n{START}kind: formula\n    formula: ce\n    says: KL", "unknown name 'KL'"),
        (
            f"{HEAD}\n{START}kind: formula\n    formula: ce\n    says: CE\n    symbols: {{CE: 1}}",
            "CE is a term of the formula",
        ),
        (f"{HEAD}\n{START}kind: figure\n    sha256: abc", "claims.0 (x) sha256"),
        (f"{HEAD}\n{START}kind: figure\n    asset: a", "asset and file go together"),
        (
            f"{HEAD}\n{START}kind: comparison\n    left: a\n    right: b\n    relation: above",
            "x is held against 'a'",
        ),
        ("", "version, title, claims"),
        ("- 1", "version, title, claims"),
        ("a: [", "is not valid YAML"),
        ("a: &x [1]\nb: *x", "anchors and aliases are not allowed"),
        (b"\xff\xfe\xfd", "is not valid YAML"),
        (b"#" * 2_000_001, "at most 2,000,000"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(FerError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert caught.value.where == str(tmp_path / "claims.yaml")


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with refused("unreadable-file") as caught:
        read_claims(tmp_path / "no.yaml")
    assert caught.value.where == str(tmp_path / "no.yaml")


def test_the_guides_examples_are_claims(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "claims.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    held = read(tmp_path, blocks[0] + blocks[1])
    kinds = [claim.kind for claim in held.claims]
    assert kinds == ["proportion", "table", "number", "configuration", "formula"]


WORDS = st.sampled_from(
    [
        "id",
        "kind",
        "number",
        "sum",
        "table",
        "sentence",
        "asset",
        "file",
        "n",
        "parts",
        "/a",
        "1",
        "",
    ]
)
TREES = st.recursive(
    WORDS, lambda t: st.lists(t, max_size=3) | st.dictionaries(WORDS, t, max_size=5), max_leaves=12
)


@settings(max_examples=200)
@given(st.lists(TREES, max_size=3) | TREES)
def test_whatever_stands_there_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, claims: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"version": 2, "title": "T", "claims": claims}))
    try:
        read_claims(path)
    except FerError as error:
        assert error.where == str(path)


def test_the_schema_for_editors_is_the_committed_one() -> None:
    committed = json.loads((ROOT / "claims" / "schema.json").read_text())
    assert committed == schema(), "write it again: fer claims schema > claims/schema.json"
    kinds = {name for name in committed["$defs"] if name.endswith("Claim")}
    assert len(kinds) == 10


def test_a_claim_is_picked_with_those_that_it_is_held_against(tmp_path: Path) -> None:
    text = GOOD + "    comparable_with: [one]\n" + CLAIM.format(id="three")
    text += f"{START}kind: comparison\n    left: two\n    right: three\n    relation: above\n"
    picked = read(tmp_path, text).picked("x")
    assert [claim.id for claim in picked.claims] == ["one", "two", "three", "x"]
    assert isinstance(picked.claims[-1], ComparisonClaim)
    assert [claim.id for claim in read(tmp_path, text).picked("one").claims] == ["one"]


@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        ({"/training/epochs": "1"}, "epochs = 1"),
        (
            {"/training/init": "previous", "/training/seed": None},
            "init = previous and seed not set",
        ),
        ({"/a/x": "1", "/a/y": "2", "/a/z": "3"}, "x = 1, y = 2 and z = 3"),
        ({"/a/x": "1", "/b/x": "2"}, "/a/x = 1 and /b/x = 2"),
    ],
)
def test_settings_are_named_as_shortly_as_they_can_be_told_apart(
    settings: dict[str, object], stated: str
) -> None:
    claim = ConfigurationClaim.model_validate(
        {
            "id": "c",
            "kind": "configuration",
            "sentence": "It ran with {value}.",
            "asset": "student_kd",
            "settings": settings,
        }
    )
    assert claim.stated == stated
