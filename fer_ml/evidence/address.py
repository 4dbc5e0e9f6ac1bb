"""Addresses of the pages of claims and report numbers, in ``evidence/`` of an artifact root."""

import hashlib
import re

#: The folder of the pages; ``claims/<id>.html`` in it is a claim's page.
FOLDER = "evidence"
#: From a run folder of the report to what its root is.
FROM_REPORT = "../../"
#: Tells pages from those of another time.
STATE_FILE = "state"
#: What a page of numbers that no claim states is called in ``FOLDER``.
NUMBERS = "numbers"


def page_of(claim: str) -> str:
    """Return the address of a claim's page, relative to the artifact root."""
    return f"{FOLDER}/claims/{claim}.html"


def page_of_number(asset: str, file: str, pointer: str) -> str:
    """Return the address of the page of a number in an artifact's file, from the artifact root."""
    return f"{FOLDER}/{NUMBERS}/{id_of_numbers(asset, file, part_of(file, pointer))}.html"


def id_of_numbers(asset: str, file: str, part: str) -> str:
    """Return the id of the page of all numbers in a part of a file."""
    place = f"{asset}/{file}{part}"
    slug = re.sub("[^a-z0-9]+", "-", place.lower())[:80].strip("-")
    return f"{slug}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def part_of(file: str, pointer: str) -> str:
    """Return the part of a file whose numbers share a page: a benchmark entry, else all of it."""
    tokens = pointer.split("/")
    entry = file == "benchmark.json" and tokens[1:2] == ["entries"]
    return "/".join(tokens[:4]) if entry else ""
