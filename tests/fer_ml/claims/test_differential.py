"""The verifier against a second opinion: no edit of a root ends green with another meaning.

Files of a small finished root are edited at random: bytes, values of JSON, whole files for others,
links and losses. What then is green must say what the untouched root says. Claims are edited too:
what a green one prints must be what a few lines of plain Python read out of the untouched files.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fer_ml.base.errors import FerError
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Receipt
from fer_ml.storage.store import Store

Chain = dict[str, Artifact]
CLAIM = {
    "id": "x",
    "kind": "number",
    "sentence": "It is {value}.",
    "asset": "benchmark",
    "file": "benchmark.json",
    "pointer": "/entries/ce/all/f1",
    "decimals": 3,
}
#: What a receipt tells people; all else decides.
TOLD = ("value", "limit", "detail", "examples", "checked_at", "run_id", "judged_by", "blocking")
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**6),
    st.floats(allow_nan=False),
    st.text("abz/.\u2028\0", max_size=8),
    st.just([]),
    st.just({}),
    st.sampled_from(["0" * 64, "..", "benchmark", "student_dkd", "2026-01-01T00:00:00+00:00"]),
)


def green(store: Store, claim: dict[str, Any] = CLAIM) -> bool:
    return printed(store, claim) is not None


def printed(store: Store, claim: dict[str, Any]) -> str | None:
    """The sentence of a claim that is green, else ``None``."""
    try:
        held = ClaimsFile.model_validate({"version": "2", "title": "T", "claims": [claim]})
        found = verify(held, Tracer(store))
    except (FerError, ValidationError):
        return None
    return found.claims[0].sentence() if found.green else None


def places(store: Store, chain: Chain) -> list[Path]:
    found = []
    for asset, artifact in chain.items():
        found += sorted(p for p in artifact.folder.rglob("*") if p.is_file())
        found.append(store.home(asset) / "current.json")
    return found


def spots(held: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    if at:
        yield at
    inner: Any = held.items() if isinstance(held, dict) else ()
    for key, value in enumerate(held) if isinstance(held, list) else inner:
        yield from spots(value, (*at, key))


def document(text: bytes) -> Any:
    """A JSON file's content, or ``None``."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def edited(data: st.DataObject, path: Path, others: list[Path]) -> bytes | None:
    """Other content for a file, or ``None``: it goes."""
    text = path.read_bytes()
    how = data.draw(st.sampled_from(["value", "key", "flip", "cut", "insert", "other", "gone"]))
    held = document(text) if how in ("value", "key") else None
    if held:
        *above, last = data.draw(st.sampled_from(list(spots(held)) or [()])) or (None,)
        inside = held
        for key in above:
            inside = inside[key]
        if how == "key" and isinstance(inside, dict):
            inside[data.draw(st.sampled_from(["seal", "extra", str(last)]))] = data.draw(VALUES)
        elif last is not None:
            inside[last] = data.draw(VALUES)
        return json.dumps(held).encode()
    at = data.draw(st.integers(0, max(len(text) - 1, 0)))
    if how == "cut":
        return text[:at]
    if how == "insert":
        return text[:at] + data.draw(st.binary(min_size=1, max_size=4)) + text[at:]
    if how == "other":
        return data.draw(st.sampled_from(others)).read_bytes()
    if how == "gone" or not text:
        return None
    return text[:at] + bytes([text[at] ^ 1 << data.draw(st.integers(0, 7))]) + text[at + 1 :]


def same(path: Path, before: bytes, after: bytes | None) -> bool:
    """Whether a file still says what it said."""
    if after is None or before == after:
        return before == after
    if path.parent.name == "receipts":
        one, two = (
            Receipt.model_validate_json(b).model_dump(exclude={*TOLD}) for b in (before, after)
        )
        return one | {"passed": None} == two | {"passed": None} and two["passed"] is not False
    one, two = document(before), document(after)
    if path.name == "current.json":
        return all(one[key] == two.get(key) for key in ("folder", "sha256"))
    if path.name == "record.json":
        return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    return before == after


def try_edits(store: Store, chain: Chain, examples: int) -> None:
    assert green(store)
    files = places(store, chain)

    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def one_edit(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(files))
        before = path.read_bytes()
        after = edited(data, path, files)
        try:
            path.unlink() if after is None else path.write_bytes(after)
            if green(store):
                assert same(path, before, after), (path, after)
        finally:
            path.write_bytes(before)
        assert green(store)

    one_edit()


def test_no_edit_of_a_root_ends_green(store: Store, chain: Chain) -> None:
    try_edits(store, chain, 150)


@pytest.mark.proof
def test_no_edit_of_a_root_ends_green_in_full(store: Store, chain: Chain) -> None:
    try_edits(store, chain, 20_000)


def plainly(chain: Chain, claim: dict[str, Any]) -> str | None:
    """What a number claim prints, read without the verifier."""
    held: Any = json.loads((chain[claim["asset"]].folder / claim["file"]).read_text())
    for key in claim["pointer"].split("/")[1:]:
        held = held[int(key) if isinstance(held, list) else key]
    expected, value = claim.get("expected"), Decimal(str(held))
    if expected is None:
        return f"{held:,.{claim.get('decimals') or 0}f}"
    stated = Decimal(str(expected).replace(",", "").rstrip("%")) / (100 if "%" in expected else 1)
    places = len(expected.rstrip("%").partition(".")[2]) + 2 * ("%" in expected)
    return expected if abs(stated - value) <= Decimal(5).scaleb(-places - 1) else None


POINTERS = [
    "/entries/ce/all/f1",
    "/entries/kd/all/acc",
    "/total",
    "/parts/a",
    "/flag",
    "/text",
    "",
    "/no",
]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    pointer=st.sampled_from(POINTERS),
    asset=st.sampled_from(["benchmark", "student_dkd", "manifest/a", "none"]),
    expected=st.one_of(st.none(), st.from_regex(r"[0-9](\.[0-9]{1,4})?%?", fullmatch=True)),
    decimals=st.integers(0, 4),
    sentence=st.sampled_from(
        ["It is {value}.", "It is 7.", "{value} of 9", "It is {value}%", "7{value}"]
    ),
)
def test_a_green_claim_prints_what_plain_python_reads(
    store: Store,
    chain: Chain,
    pointer: str,
    asset: str,
    expected: str | None,
    decimals: int,
    sentence: str,
) -> None:
    stated = {"decimals": decimals} if expected is None else {"expected": expected}
    claim = {**CLAIM, "asset": asset, "pointer": pointer, "sentence": sentence} | stated
    claim = {key: value for key, value in claim.items() if key != "decimals" or expected is None}
    found = printed(store, claim)
    if found is not None:
        assert sentence == "It is {value}."
        assert found == f"It is {plainly(chain, claim)}."
        assert re.search(r"\d", found)
