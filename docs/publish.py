"""Publish a finished run: python docs/publish.py -p PROFILE [--student]

Writes the profile's part of ``docs/results.md``, which is the text of the asset ``report``, and its
figures; with ``--student`` also the student that ships, ``demo_app/student``: the profile's fp16
bundle with its chain and its card for people. Nothing in a part is written by hand but corrections
of a run that was not made again. The page knows the anchors of claims by ``<a id>``, the report by
the table of its claims.
"""

import argparse
import re
import shutil
from pathlib import Path

from demo_app.shipped import SHIPPED
from fer_assets.pipeline import Pipeline
from fer_ml.base.files import write_json
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, load_bundle
from fer_ml.bundles.model_card import as_markdown
from fer_ml.bundles.provenance import CHAIN_FILE, chain_of, verify_chain
from fer_ml.exchange.facts import lineage_nodes
from fer_ml.figures.measurements import write_part

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
PRECISION = "fp16"


def publish_report(run: Path, profile: str, page: Path = PAGE) -> None:
    """Write the part ``profile`` of ``page``, and its pictures, from the run of ``report``."""
    figures = page.parent / "figures" / profile
    shutil.rmtree(figures, ignore_errors=True)
    shutil.copytree(run / "figures", figures)
    write_part(page, profile, as_part((run / "report.md").read_text("utf-8"), profile))


def as_part(text: str, profile: str) -> str:
    """A report as a part of a page: its headings one level lower, its anchors its own.

    Marks lead to the table of claims, since the pages of evidence show faces and are not published;
    numbers that lead to such pages stand alone.
    """
    text = re.sub(r"^#(?=#* )", "##", text, flags=re.MULTILINE)
    text = text.replace("](figures/", f"](figures/{profile}/")
    evidence = r"\]\([^)\s]*evidence/[^)\s]*\)"
    mark = rf'| <a id="{profile}-\1"></a>\1'
    text = re.sub(rf"^\| \[(c\d+){evidence}", mark, text, flags=re.MULTILINE)
    text = re.sub(rf"\[(c\d+)( [^]]+){evidence}", rf"[\1\2](#{profile}-\1)", text)
    return re.sub(rf"\[([^]]*){evidence}", r"\1", text)


def publish_student(pipeline: Pipeline, folder: Path = SHIPPED) -> None:
    """Write the bundle, its chain and its card for people to ``folder``."""
    small = pipeline.store.require("small_bundles")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (MODEL_FILE, CARD_FILE):
        shutil.copyfile(small.file(f"{PRECISION}/{name}"), folder / name)
    nodes = lineage_nodes(pipeline.store, [small], pipeline.fingerprints())
    write_json(folder / CHAIN_FILE, chain_of(nodes, PRECISION).model_dump())
    bundle = load_bundle(folder)
    page = as_markdown(bundle.card, verify_chain(bundle))
    (folder / "README.md").write_text(page, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-p", "--profile", required=True)
    parser.add_argument("--student", action="store_true", help="its student is to ship")
    given = parser.parse_args()
    pipeline = Pipeline.open(given.profile)
    report = pipeline.store.require("report")
    publish_report(report.folder, given.profile)
    if given.student:
        publish_student(pipeline)


if __name__ == "__main__":
    main()
