"""The mark of a claim: a link to its evidence page, with a card that summarises the evidence."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markdown_it.token import Token
from markupsafe import Markup

from fer_ml.base.visible import visible
from fer_ml.evidence.address import FOLDER, FROM_REPORT, NUMBERS, page_of
from fer_ml.storage.record import asset_label

#: Where a mark leads, and the claim that it is of.
MARK = re.compile(re.escape(FROM_REPORT + page_of("@")).replace("@", "([a-z0-9_-]+)"))
#: Where a number that no claim states leads.
NUMBER = re.compile(re.escape(f"{FROM_REPORT}{FOLDER}/{NUMBERS}/") + r"[a-z0-9-]+\.html")
#: Of a card's lines, by the name of their class.
_LINE = Markup('<span class="{}">{}</span>')


def cards(
    claims: Mapping[str, Mapping[str, Any]], lineage: Iterable[Mapping[str, Any]]
) -> dict[str, Markup]:
    """Return the card of each claim by its id, from the entries of ``claims.json``."""
    receipts = {(step["asset"], step["sha256"]): step["receipts"].values() for step in lineage}
    return {name: _card(claim, receipts) for name, claim in claims.items()}


def _card(
    claim: Mapping[str, Any], receipts: Mapping[tuple[str, str], Iterable[bool | None]]
) -> Markup:
    steps = [(step["asset"], step["sha256"]) for step in claim["rests_on"]]
    verdicts = [passed for step in steps for passed in receipts.get(step, ())]
    passed, failed = verdicts.count(True), verdicts.count(False)
    cited = claim["artifact"]
    place = asset_label(cited["asset"], cited["partition"])
    lines = [
        ("says", claim["sentence"]),
        ("why", f"{claim['status'].replace('_', ' ')}{claim['reason'] and ': ' + claim['reason']}"),
        ("place", f"{place} {cited['file']}{cited['pointer']}".strip()),
        ("place", f"bytes {cited['sha256'][:12]}" if cited["sha256"] else ""),
        ("why", f"gates on its path: {passed} passed{f', {failed} did not' if failed else ''}"),
        ("place", f"fer trace {claim['id']}"),
    ]
    return Markup("").join(_LINE.format(kind, visible(text)) for kind, text in lines if text)


def with_cards(children: Sequence[Token], shown: Mapping[str, Markup]) -> list[Token]:
    """Return the tokens of a line with its card inserted beside each mark."""
    tokens: list[Token] = []
    card: Markup | None = None
    for child in children:
        mark = MARK.fullmatch(str(child.attrGet("href"))) if child.type == "link_open" else None
        if mark:
            card = shown.get(mark[1])
        if mark and card is not None:
            tokens.append(_raw('<span class="ref">'))
        tokens.append(child)
        if child.type == "link_close" and card is not None:
            tokens.append(
                _raw(Markup('<span class="card" role="tooltip">{}</span></span>').format(card))
            )
            card = None
    return tokens


def _raw(text: str) -> Token:
    return Token("html_inline", "", 0, content=text)
