"""The asset ``report``: rendered, and judged by what it says."""

from pathlib import Path

from fer_assets.stages.job import Job
from fer_ml.base.files import sha256_file
from fer_ml.recipes.profiles import Profile
from fer_ml.report.checklist import check_list
from fer_ml.report.citations import check_citations
from fer_ml.report.html import html_page
from fer_ml.report.literals import find_uncovered
from fer_ml.report.markdown import parser
from fer_ml.report.pdf import pdf_bytes
from fer_ml.report.references import References
from fer_ml.report.template import read_template, render
from fer_ml.storage.gates import Outcome
from fer_ml.storage.store import Artifact, RunFolder, Store

REPORT, TEMPLATE, GIVEN = "report.md", "template.md.j2", "report.json"


def build_report(run: RunFolder, job: Job) -> None:
    """``report.md``, ``report.html`` and ``report.pdf`` from the template, and ``report.json``."""
    template = read_template(job.paths["report"])
    references = References(job.input, run, job.profile.name, job.profile.drawn)
    text = render(template, references.helpers())
    values = {name: claim["value"] for name, claim in references.claims.items()}
    uncovered = find_uncovered(template.source, values)
    pictures = {
        given["copy"]: run.path(given["copy"]).read_bytes()
        for given in references.given
        if given["kind"] == "figure"
    }
    run.write_text(TEMPLATE, template.source)
    run.write_text(REPORT, text)
    run.write_text("report.html", html_page(text, pictures))
    run.path("report.pdf").write_bytes(pdf_bytes(text, pictures))
    run.write_json(
        GIVEN,
        {
            "schema_version": 1,
            "uncovered": [found.to_json() for found in uncovered],
            "citations": check_citations(text).to_json(),
            "checklist": [found.to_json() for found in check_list(text)],
            "references": references.given,
        },
    )
    kinds = [given["kind"] for given in references.given]
    run.summary.update({f"{kind}s": kinds.count(kind) for kind in dict.fromkeys(kinds)})


def gate_report(artifact: Artifact, store: Store, profile: Profile) -> list[Outcome]:
    """Judge the report: its numbers, its figures, its citations, its checklist."""
    held = artifact.read_json(GIVEN)
    text = artifact.file(REPORT).read_text(encoding="utf-8")
    bare = [f"{u['line']}:{u['column']}: {u['kind']} {u['text']}" for u in held["uncovered"]]
    stated = sum(given["kind"] == "stated" for given in held["references"])
    foreign = _foreign_figures(artifact, store, text)
    citations = check_citations(text)
    lost = [f"[{n}] is not listed" for n in citations.missing]
    lost += [f"[{n}] is listed twice" for n in citations.twice]
    unused = [f"[{n}]" for n in citations.uncited]
    lacking = [found.item.asks for found in check_list(text) if not found.stated]
    return [
        _none("numbers_covered", bare, f"line:column of {TEMPLATE}; {stated} stated by hand"),
        _none("figures_from_artifacts", foreign),
        _none("citations_listed", lost),
        _none("references_cited", unused),
        _none("checklist_stated", lacking),
    ]


def _none(rule: str, found: list[str], detail: str = "") -> Outcome:
    return Outcome(rule, not found, len(found), 0, detail, tuple(found[:5]))


def _foreign_figures(artifact: Artifact, store: Store, text: str) -> list[str]:
    """Images of the report that are not, byte for byte, the file of the artifact they name."""
    held = artifact.read_json(GIVEN)["references"]
    known = {given["copy"]: given for given in held if given["kind"] == "figure"}
    wrong = []
    for name in _images(text):
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


def _images(text: str) -> list[str]:
    return [
        str(child.attrGet("src"))
        for token in parser().parse(text)
        for child in token.children or ()
        if child.type == "image"
    ]
