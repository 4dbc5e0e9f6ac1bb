"""The report as files: rendered from its template, and its figures traced to their artifacts."""

from pathlib import Path

from fer_ml.base.reading import read_file, sha256_file
from fer_ml.evidence.numbers import GIVEN
from fer_ml.report.checklist import check_list
from fer_ml.report.citations import check_citations
from fer_ml.report.html import html_page
from fer_ml.report.literals import find_uncovered
from fer_ml.report.markdown import parser
from fer_ml.report.marks import cards
from fer_ml.report.pdf import pdf_bytes
from fer_ml.report.references import References
from fer_ml.report.template import read_template, render
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.store import RunFolder, Store

REPORT, TEMPLATE = "report.md", "template.md.j2"


def write_report(run: RunFolder, source: Path, references: References) -> None:
    """Write ``report.md``, ``report.html``, ``report.pdf`` and ``report.json`` from a template.

    ``source`` is the template's file, ``references`` gives the artifacts and claims it may refer
    to. The files are written into ``run``.
    """
    template = read_template(source)
    text = render(template, references.helpers())
    values = {name: claim["value"] for name, claim in references.claims.items()}
    uncovered = find_uncovered(template.source, values, references.names)
    pictures = {
        given["copy"]: read_file(run.path(given["copy"]))
        for given in references.given
        if given["kind"] == "figure"
    }
    shown = cards(references.claims, references.lineage)
    run.write_text(TEMPLATE, template.source)
    run.write_text(REPORT, text)
    run.write_text("report.html", html_page(text, pictures, shown))
    run.path("report.pdf").write_bytes(pdf_bytes(text, pictures))
    run.write_json(
        GIVEN,
        {
            "schema_version": 1,
            "uncovered": [entry.to_json() for entry in uncovered],
            "citations": check_citations(text).to_json(),
            "checklist": [entry.to_json() for entry in check_list(text)],
            "references": references.given,
        },
    )
    kinds = [given["kind"] for given in references.given]
    run.summary.update({f"{kind}s": kinds.count(kind) for kind in dict.fromkeys(kinds)})


def foreign_figures(artifact: Artifact, store: Store, text: str) -> list[str]:
    """Name images of the report that are not, byte for byte, the file of the artifact they name."""
    references = artifact.read_json(GIVEN)["references"]
    known = {given["copy"]: given for given in references if given["kind"] == "figure"}
    wrong = []
    for name in images(text):
        given = known.get(name)
        path: Path = artifact.folder / name
        if given is None or name not in artifact.record.files:
            wrong.append(f"{name} comes from no artifact")
        elif sha256_file(path) != _recorded(given, artifact, store):
            wrong.append(f"{name} is not {given['asset']} {given['file']}")
    return wrong


def _recorded(given: dict[str, str], artifact: Artifact, store: Store) -> str | None:
    item = next(i for i in artifact.record.inputs if i.key == given["asset"])
    source = store.find(item.asset, item.partition, item.sha256)
    entry = source.record.files.get(given["file"]) if source else None
    return entry.sha256 if entry else None


def images(text: str) -> list[str]:
    """Return the addresses of the pictures in a Markdown text."""
    return [
        str(child.attrGet("src"))
        for token in parser().parse(text)
        for child in token.children or ()
        if child.type == "image"
    ]
