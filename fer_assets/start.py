"""The start page of ``fer ui``: how good the student is, what is not green, and links."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fer_assets.digest import STATES, Digest, Entry, digest_of
from fer_assets.pages import PAGES, VIEWS, asset_path, check_path, runs_path, view_path
from fer_assets.pipeline import Pipeline
from fer_ml.base.errors import FerError
from fer_ml.evidence.address import FOLDER, page_of
from fer_ml.evidence.pages import report_of
from fer_ml.figures.page import render_page
from fer_ml.metrics.comparability import look_note
from fer_ml.storage.record import parse_label

TEMPLATE = Path(__file__).with_name("start.html.j2")


@dataclass(frozen=True)
class Headline:
    """One figure at the top of the start page, with its context."""

    what: str
    value: str
    more: str = ""


class Start:
    """The start page of a profile, cached until the ``state`` of what it shows changes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = threading.Lock()
        self._made: tuple[object, str] | None = None

    def page(self, state: object, *, again: bool) -> str:
        """Return the page; bytes are verified anew if ``state`` changed, or if ``again`` is set.

        ``again`` finds damage that ``state`` cannot show, such as an image edited by hand.
        """
        with self._lock:
            if again or self._made is None or self._made[0] != state:
                self._made = state, self._write()
            return self._made[1]

    def _write(self) -> str:
        digest = digest_of(self._pipeline)
        return render_page(
            TEMPLATE,
            digest=digest,
            states=STATES,
            address=partial(address, self._pipeline.profile.name),
            figures=list(headlines(self._pipeline, digest)),
            links=_links(self._pipeline),
        )


def headlines(pipeline: Pipeline, digest: Digest) -> Iterator[Headline]:
    """Yield three figures: the deployed student, its demo, and the claims."""
    card = _read(pipeline, "student_bundle", "card.json")
    official = card.get("metrics", {}).get("test_all_sources")
    scores = card.get("metrics", {}).get("test_all_sources.deduplicated", official)
    if scores is None:
        yield Headline("The deployed student", "none", "not made, or not sound")
    else:
        interval = scores.get("intervals", {}).get("macro_f1")
        within = f"95% interval {interval[0]:.3f} to {interval[1]:.3f}, " if interval else ""
        drawn = ", drawn faces" if pipeline.profile.drawn else ""
        looked = f"; {note}" if (note := look_note(scores)) else ""
        if official is not None and official["n"] != scores["n"]:
            drawn += f"; all {official['n']:,} as published: {official['macro_f1']:.3f}"
        yield Headline(
            f"macro-F1 of {card['name']} on test faces without a near twin in training",
            f"{scores['macro_f1']:.3f}",
            f"{within}n = {scores['n']:,}, accuracy {scores['accuracy']:.3f}{drawn}{looked}",
        )
    demo = _read(pipeline, "demo_kpis", "demo_kpis.json")
    flips = demo.get("flips_per_minute_stabilised")
    if flips is None:
        yield Headline("The demo", "none", "not measured, or not sound")
    else:
        p95 = demo.get("frame_ms_p95")
        took = f"; a frame takes {p95:.0f} ms at the 95th percentile" if p95 is not None else ""
        yield Headline(
            "label flips a minute in the demo",
            f"{flips:.1f}",
            f"{demo['flips_per_minute_raw']:.1f} without stabilisation{took}",
        )
    green = digest.claims - sum(entry.kind == "claim" for entry in digest.entries)
    yield Headline("claims that hold", f"{green} of {digest.claims}" if digest.claims else "none")


def address(profile: str, entry: Entry) -> str:
    """Return the address in the UI of an entry of the digest."""
    match entry.kind:
        case "claim":
            return f"{PAGES}{FOLDER}/" if "/" in entry.name else f"{PAGES}{page_of(entry.name)}"
        case "gate":
            label, _, rule = entry.name.rpartition(" ")
            return check_path(profile, parse_label(label)[0], rule)
        case _:
            return asset_path(profile, *parse_label(entry.name))


def _links(pipeline: Pipeline) -> Mapping[str, str]:
    """Return the page's links by their text."""
    links = {}
    if report := report_of(pipeline.store):
        links["Open the report"] = f"{PAGES}{report.removeprefix('../')}"
    links["Claims and their evidence"] = f"{PAGES}{FOLDER}/"
    links["Make everything: Materialize all, in the graph"] = "/asset-groups/"
    links |= {name[0].upper() + name[1:]: view_path(*shown) for name, shown in VIEWS.items()}
    return links | {"Runs": runs_path(pipeline.profile.name), "Look again": "?again"}


def _read(pipeline: Pipeline, asset: str, file: str) -> dict[str, Any]:
    """Read a JSON file of an artifact that passed its gates; empty otherwise (see the digest)."""
    try:
        return dict(pipeline.store.require(asset).read_json(file))
    except (FerError, OSError):
        return {}
