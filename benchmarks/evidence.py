"""The pages of evidence: time of writing, size, and time until a browser shows them.

python benchmarks/evidence.py [--rows 10000] [--large 466284] [--rounds 3] [--json FILE]

The rows are synthetic and have no images. First forty claims depend on the predictions of seven
models for ``--rows`` faces; then two claims depend on a manifest of ``--large`` rows. Pages are
opened from the folder in headless Chromium, if playwright and Chromium are installed.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fer_ml.base.labels import CLASSES
from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.evidence.pages import Around, write_evidence
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish
from fer_ml.manifests.schema import SCHEMA, write_manifest
from fer_ml.metrics.classification import classification_metrics
from fer_ml.metrics.comparability import KEYS
from fer_ml.metrics.predictions import write_predictions
from fer_ml.runs.logits import labels_of
from fer_ml.storage.store import Store

MODELS, CLAIMS = 7, 40
METRICS = ("accuracy", "macro_f1", "nll", "ece", "brier", "aurc")
MEBIBYTE = 2**20


def manifest(rows: int) -> pl.DataFrame:
    """Return rows of three sources, with hashes and votes of their usual length."""
    place = pl.int_range(rows).cast(pl.String)
    cells = {
        "image_path": "cleaned/source/train/" + place.str.zfill(24) + ".jpg",
        "label": pl.int_range(rows).replace_strict(dict(enumerate(CLASSES * (rows // 7 + 1)))),
        "split": pl.lit("test"),
        "source": "source_" + (pl.int_range(rows) % 3).cast(pl.String),
        "orig_image": "train/" + place.str.zfill(16) + ".jpg",
        "sample_id": place.str.zfill(32),
        "group_id": place.str.zfill(32),
        "votes": pl.lit("0;3;0;1;6;0;0"),
        "width": pl.lit(224),
        "height": pl.lit(224),
    }
    empty = {name: pl.lit(None) for name in SCHEMA if name not in cells}
    return pl.select(pl.int_range(rows).alias("_")).select(**cells, **empty).select(list(SCHEMA))


def claim(name: str, asset: str, file: str, pointer: str, decimals: int) -> dict[str, Any]:
    """Return a claim about one number."""
    held = {"id": name, "kind": "number", "sentence": "It is {value}.", "asset": asset}
    return held | {"file": file, "pointer": pointer, "decimals": decimals}


def of_answers(store: Store, rows: int) -> list[dict[str, Any]]:
    """Write the benchmark artifact; return claims about it."""
    frame, draw = manifest(rows), np.random.default_rng(0)
    with store.begin("test_all_sources_manifest", inputs=[], run_id="r") as run:
        write_manifest(frame, run.path("test_all_sources.csv"))
    made = store.current("test_all_sources_manifest")
    assert made is not None
    y, entries = labels_of(frame), {}
    with store.begin("benchmark", inputs=[made.as_input()], run_id="r") as run:
        for model in map(str, range(MODELS)):
            logits = draw.normal(0, 2, (rows, len(CLASSES))).astype(np.float32)
            write_predictions(run.path(f"predictions/model_{model}__test.csv"), frame, logits)
            held = dict.fromkeys(KEYS, "made up") | {"manifest": made.key, "n": rows}
            held |= {"split": "test", "temperature": 1.0, "raw": classification_metrics(y, logits)}
            entries[f"model_{model}"] = {"test": held}
        run.write_json("benchmark.json", {"entries": entries})
    places = [(f"model_{i % MODELS}", METRICS[i // MODELS]) for i in range(CLAIMS)]
    return [
        claim(f"claim-{i}", "benchmark", "benchmark.json", f"/entries/{model}/test/raw/{metric}", 3)
        for i, (model, metric) in enumerate(places)
    ]


def of_rows(store: Store, rows: int) -> list[dict[str, Any]]:
    """Write a large manifest; return claims about it."""
    frame = manifest(rows)
    with store.begin("classification_manifest", inputs=[], run_id="r") as run:
        write_manifest(frame, run.path("classification_manifest.csv"))
        run.write_json("clean_report.json", {"manifest": {"rows": rows}, "reports": []})
    whole = claim("claim-0", "classification_manifest", "clean_report.json", "/manifest/rows", 0)
    part = whole | {"id": "claim-1", "file": "classification_manifest.csv", "take": "count"}
    del part["pointer"], part["decimals"]
    return [whole, part | {"where": {"source": "source_1"}}]


def write(store: Store, folder: Path, claims: list[dict[str, Any]]) -> Callable[[], object]:
    """Return a function that verifies the claims and writes their pages."""
    held = ClaimsFile.model_validate({"version": "2", "title": "Made up", "claims": claims})

    def work() -> object:
        verified = verify(held, Tracer(store))
        if not verified.green:
            raise SystemExit(verified.claims[0].reason)
        return write_evidence(folder, store, verified, Around("made", True, False))

    return work


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call in s."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def opened(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return seconds until a page shows rows, a filter, recomputed numbers, and one face.

    Each round uses a new browser; the result is empty if no browser is installed.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    found: dict[str, list[float]] = {}
    for _ in range(rounds if chromium else 0):
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(60_000)
            for name, work in _looks(page, (folder / "evidence").absolute()):
                found.setdefault(name, []).append(seconds(work))
            browser.close()
    return found


def _looks(page: Any, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    def first() -> None:
        page.goto((folder / "claims" / "claim-0.html").as_uri())
        page.wait_for_selector(".list a")

    def computed() -> None:
        page.click("#again")
        page.wait_for_selector("#told.good, #told.bad")
        if not page.inner_text("#told").startswith("✓"):
            raise SystemExit(page.inner_text("#told"))

    def filtered() -> None:
        page.fill("[name=text]", "00000007")
        page.wait_for_selector("text=/^[\\d,]+ rows of [\\d,]+$/")

    def face() -> None:
        page.click(".list a >> nth=0")
        page.wait_for_selector("#claims ul")

    yield "a page is readable, its first rows shown", first
    yield "its number computed again", computed
    yield "its rows filtered by a text", filtered
    yield "the page of a face, with every claim on it", face


def figures(title: str, folder: Path, work: Callable[[], object], rounds: int) -> Iterator[Figure]:
    """Yield the figures measured for one folder of pages."""
    large = title != "40 claims"
    built = [seconds(work) for _ in range(rounds)]
    sizes = [path.stat().st_size for path in (folder / "evidence").rglob("*") if path.is_file()]
    yield Figure.of(f"{title}: verified and written", built, "s", at_most=None if large else 20)
    whole = sum(sizes) / MEBIBYTE
    yield Figure.of(f"{title}: all files", [whole], "MiB", at_most=None if large else 20)
    yield Figure.of(f"{title}: the largest file", [max(sizes) / MEBIBYTE], "MiB", at_most=2)
    for name, times in opened(folder, rounds).items():
        first = name.startswith("a page is readable")
        yield Figure.of(f"{title}: {name}", times, "s", at_most=1 if first else None)


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=466_284)
    parser.add_argument("--rounds", type=int, default=3)
    json_option(parser)
    given = parser.parse_args()
    found: list[Figure] = []
    for title, make, rows in (
        (f"{CLAIMS} claims", of_answers, given.rows),
        (f"{given.large:,} rows", of_rows, given.large),
    ):
        with tempfile.TemporaryDirectory() as temporary:
            store = Store(Path(temporary) / "made", "made")
            work = write(store, store.root, make(store, rows))
            found += figures(title, store.root, work, given.rounds)
    publish(
        Benchmark(
            title="The pages behind claims",
            data=f"{CLAIMS} claims on the answers of {MODELS} models to {given.rows:,} made-up "
            f"rows, and two on a manifest of {given.large:,}; no faces. Opened from the folder.",
            figures=tuple(found),
        ),
        given.json,
    )


if __name__ == "__main__":
    main()
