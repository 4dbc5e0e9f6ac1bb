"""Where the pages of claims and of a report's numbers are: in ``evidence/`` of an artifact root."""

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
    """The address of a claim's page, from the artifact root."""
    return f"{FOLDER}/claims/{claim}.html"


def page_of_number(asset: str, file: str, pointer: str) -> str:
    """The address of the page that has a number of an artifact's file, from the artifact root."""
    return f"{FOLDER}/{NUMBERS}/{id_of_numbers(asset, file, part_of(file, pointer))}.html"


def id_of_numbers(asset: str, file: str, part: str) -> str:
    """The id of the page of all numbers in a part of a file."""
    place = f"{asset}/{file}{part}"
    slug = re.sub("[^a-z0-9]+", "-", place.lower())[:80].strip("-")
    return f"{slug}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def part_of(file: str, pointer: str) -> str:
    """The part of a file whose numbers share a page: an entry of the benchmark, else all of it."""
    tokens = pointer.split("/")
    entry = file == "benchmark.json" and tokens[1:2] == ["entries"]
    return "/".join(tokens[:4]) if entry else ""
