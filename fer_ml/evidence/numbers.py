"""Numbers of a report that no claim states, turned into claims on what it printed.

A report keeps the source of each of its numbers. Those of one page form one table claim, which is
checked against the current artifacts like the claims of the claims file.
"""

import re

from fer_ml.claims.model import ClaimsFile, TableClaim
from fer_ml.claims.printed import PRINTED
from fer_ml.claims.sentences import numbers_of as digits_of
from fer_ml.evidence.address import id_of_numbers, part_of
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import parse_label

GIVEN = "report.json"


def numbers_of(report: Artifact) -> ClaimsFile | None:
    """Return the tables of a report's numbers, one per page; ``section`` names their subject."""
    pages: dict[tuple[str, str, str], dict[str, str]] = {}
    for given in report.read_json(GIVEN)["references"]:
        for pointer, text in given.get("numbers", {}).items():
            if re.fullmatch(PRINTED, text):
                part = part_of(given["file"], pointer)
                page = pages.setdefault((given["asset"], given["file"], part), {})
                page.setdefault(pointer.removeprefix(part), text)
    if not pages:
        return None
    claims = tuple(_table(*place, numbers) for place, numbers in pages.items())
    # Names of files' own: nobody wrote them into a sentence.
    texts = [text for claim in claims for text in (*claim.rows, *claim.columns)]
    names = dict.fromkeys(name for text in texts for name in digits_of(text, ()))
    claims_file = ClaimsFile(version="2", title="Numbers of the report", claims=claims)
    return claims_file.model_copy(update={"names": tuple(names)})


def _table(label: str, file: str, part: str, numbers: dict[str, str]) -> TableClaim:
    asset, partition = parse_label(label)
    place = {"asset": asset, "partition": partition, "file": file}
    row = " on ".join(part.split("/")[2:]) or f"{label} {file}"
    return TableClaim.model_validate(
        {
            **(place if part else {}),
            "id": id_of_numbers(label, file, part),
            "kind": "table",
            "sentence": "{value}",
            "section": row,
            "rows": {row: part or place},
            "columns": {pointer.removeprefix("/"): pointer for pointer in numbers},
            "expected": {row: tuple(numbers.values())},
            "unequal_budgets": True,
        }
    )
