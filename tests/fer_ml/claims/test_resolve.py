"""Statuses of claims over a small store made by hand, and the arithmetic behind them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from fer_ml.claims.model import Claim
from fer_ml.claims.resolve import Resolved, is_proportion, resolve_claim, rounds_to
from fer_ml.claims.trace import Tracer
from fer_ml.gates import blocking_rules
from fer_ml.store import Artifact, Input, Receipt, Store

HELD = {"acc": 0.8, "n": 10, "whole": 7, "parts": {"a": 3, "b": 4}, "flag": True, "text": "x"}
RAW = Input(asset="raw/s", sha256="f" * 64, root="/data/s")


def put(
    store: Store, asset: str, held: Any, inputs: Iterable[Input] = (), *, passed: bool = True
) -> Artifact:
    with store.begin(asset, inputs=inputs, run_id="r1") as run:
        run.write_json("numbers.json", held)
        run.write_text("notes.txt", "no JSON")
        run.splits.update(temperature="calib")
    artifact = store.current(asset)
    assert artifact is not None
    for rule in blocking_rules(asset):
        judge(store, artifact, rule, passed)
    return artifact


def judge(store: Store, artifact: Artifact, rule: str, passed: bool) -> None:
    store.write_receipt(
        artifact,
        Receipt(
            asset=artifact.record.asset,
            partition=None,
            artifact_sha256=artifact.sha256,
            rule=rule,
            blocking=True,
            passed=passed,
            value=0,
            limit=0,
            detail="",
            examples=(),
            checked_at=datetime.now(UTC).isoformat(),
            run_id=None,
        ),
    )


@pytest.fixture
def chain(store: Store) -> list[Artifact]:
    """raw/s <- manifest/s <- classification_manifest <- benchmark."""
    source = put(store, "manifest/s", {"rows": 3}, [RAW])
    unified = put(store, "classification_manifest", {"rows": 3}, [source.as_input()])
    return [source, unified, put(store, "benchmark", HELD, [unified.as_input()])]


def claim(**changes: Any) -> Claim:
    return Claim(
        **{
            "id": "c",
            "sentence": "It is {value}.",
            "asset": "benchmark",
            "file": "numbers.json",
            "pointer": "/acc",
            "decimals": 2,
            **changes,
        }
    )


def resolve(store: Store, fingerprints: dict[str, str] | None = None, **changes: Any) -> Resolved:
    return resolve_claim(claim(**changes), store, Tracer(store, fingerprints))


def test_grounded_down_to_the_raw_folder(store: Store, chain: list[Artifact]) -> None:
    found = resolve(store, {"raw/s": RAW.sha256}, expected=0.8)
    assert (found.status, found.reason, found.value) == ("grounded", "", 0.8)
    assert found.sentence() == "It is 0.80."
    told = found.to_json()
    assert told["artifact"]["sha256"] == chain[2].sha256
    assert told["artifact"]["file_sha256"] == chain[2].record.files["numbers.json"].sha256
    assert told["artifact"]["run_id"] == "r1"
    assert told["rests_on"] == {
        "classification_manifest": chain[1].sha256,
        "manifest/s": chain[0].sha256,
        "raw/s": RAW.sha256,
    }
    assert told["splits"]["benchmark: temperature"] == "calib"


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("file", ["numbers.json", "notes.txt"])
def test_one_flipped_byte_anywhere_below_drifts_the_claim(
    store: Store, chain: list[Artifact], depth: int, file: str
) -> None:
    path = chain[depth].folder / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = resolve(store)
    assert found.status == "drifted"
    assert f"{chain[depth].key}: damaged: {file}" in found.reason
    assert found.value is None, "a number of changed bytes is not shown"


def test_a_removed_file_drifts_the_claim(store: Store, chain: list[Artifact]) -> None:
    (chain[2].folder / "notes.txt").unlink()
    assert resolve(store).status == "drifted"


def test_a_newer_input_makes_it_stale(store: Store, chain: list[Artifact]) -> None:
    put(store, "manifest/s", {"rows": 4}, [RAW])
    found = resolve(store)
    assert (found.status, found.value) == ("stale", 0.8)
    assert found.reason == "manifest/s: a newer one is current"


def test_the_same_bytes_again_are_not_stale(store: Store, chain: list[Artifact]) -> None:
    put(store, "manifest/s", {"rows": 3}, [RAW])
    assert resolve(store).status == "grounded"


def test_raw_data_that_changed_makes_it_stale(store: Store, chain: list[Artifact]) -> None:
    assert resolve(store, {"raw/s": "0" * 64}).reason == "raw/s: raw folder changed since"
    assert resolve(store, {}).reason == "raw/s: raw folder is gone"


def test_a_failed_or_absent_gate_makes_it_stale(store: Store, chain: list[Artifact]) -> None:
    judge(store, chain[1], "leakage", False)
    found = resolve(store)
    assert found.status == "stale"
    assert found.reason == "classification_manifest: gate 'leakage' failed"
    (chain[1].folder / "receipts/leakage.json").unlink()
    assert "has not judged these bytes" in resolve(store).reason


def test_vanished_bytes_upstream_make_it_stale(store: Store, chain: list[Artifact]) -> None:
    chain[0].folder.rename(store.root / "away")
    (store.home("manifest/s") / "current.json").unlink()
    assert resolve(store).reason == "manifest/s: these bytes are no longer here"


@pytest.mark.parametrize(
    "changes",
    [
        {"asset": "report"},
        {"asset": "teacher", "partition": "RN18"},
        {"file": "no.json"},
        {"file": "../../x.json"},
        {"file": "notes.txt"},
        {"pointer": "/no"},
        {"pointer": "/text"},
        {"pointer": "/flag"},
        {"pointer": "/parts"},
        {"pointer": ""},
        {"kind": "proportion", "n_pointer": "/no"},
        {"kind": "sum", "parts": ("/parts/a", "/parts/c")},
    ],
)
def test_what_points_to_no_number_is_ungrounded(
    store: Store, chain: list[Artifact], changes: dict[str, Any]
) -> None:
    found = resolve(store, **changes)
    assert (found.status, found.value) == ("ungrounded", None)
    assert found.reason
    assert found.sentence() == "It is ?."
    assert found.to_json()["status"] == "ungrounded"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expected": 0.81}, "the artifact holds 0.8, the claim says 0.81"),
        ({"kind": "proportion", "n_pointer": "/whole"}, "0.8 is not k/7"),
        (
            {"pointer": "/whole", "kind": "sum", "parts": ("/parts/a", "/parts/a")},
            "the parts add up to 6, not 7",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_contradicted(
    store: Store, chain: list[Artifact], changes: dict[str, Any], reason: str
) -> None:
    found = resolve(store, **changes)
    assert found.status == "contradicted"
    assert reason in found.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "proportion", "n_pointer": "/n"},
        {"pointer": "/whole", "kind": "sum", "parts": ("/parts/a", "/parts/b"), "expected": 7},
    ],
)
def test_numbers_that_fit(store: Store, chain: list[Artifact], changes: dict[str, Any]) -> None:
    assert resolve(store, **changes).status == "grounded"


@pytest.mark.parametrize(
    ("value", "printed", "decimals", "holds"),
    [
        (0.7501744, 0.750174, 6, True),
        (0.7501746, 0.750174, 6, False),
        (0.125, 0.12, 2, True),
        (0.125, 0.13, 2, True),
        (0.1251, 0.12, 2, False),
        (0.3, 0.3, 1, True),
        (0.1 + 0.2, 0.3, 9, True),
        (466284, 466284, 0, True),
        (466284, 466283, 0, False),
        (466284.5, 466284, 0, True),
        (-0.125, -0.13, 2, True),
        (1e-9, 0.0, 6, True),
    ],
)
def test_rounding(value: float, printed: float, decimals: int, holds: bool) -> None:
    assert rounds_to(value, printed, decimals) is holds


@pytest.mark.parametrize(
    ("value", "n", "holds"),
    [
        (5086 / 6780, 6780, True),
        (5086 / 6780, 11890, False),
        (0.750174, 11890, False),  # Six printed digits are no proof: the artifact has them all.
        (1 / 3, 3, True),
        (1 / 3, 10**6, False),
        (0.0, 5, True),
        (1.0, 5, True),
        (1.2, 5, False),
        (-0.2, 5, False),
        (0.5, 0, False),
    ],
)
def test_proportions(value: float, n: int, holds: bool) -> None:
    assert is_proportion(value, n) is holds


def test_every_proportion_of_every_small_n_is_one() -> None:
    assert all(is_proportion(k / n, n) for n in range(1, 200) for k in range(n + 1))


@pytest.mark.parametrize("printed", [float("inf"), float("nan"), 1e30, 0.804])
def test_an_expected_value_that_cannot_be_printed_so_is_refused(printed: float) -> None:
    with pytest.raises(ValidationError, match="expected"):
        claim(expected=printed, decimals=2)


def test_parts_that_are_fractions_add_up(store: Store) -> None:
    put(store, "benchmark", {"all": 0.3, "a": 0.1, "b": 0.2})
    found = resolve(store, pointer="/all", kind="sum", parts=("/a", "/b"))
    assert found.status == "grounded"


def test_a_file_that_is_no_json_is_ungrounded(store: Store) -> None:
    with store.begin("benchmark") as run:
        run.write_text("numbers.json", "{")
    assert resolve(store).status == "ungrounded"
