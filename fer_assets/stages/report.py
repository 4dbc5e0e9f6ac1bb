"""``report``: rendered from a template in which every number and figure is a reference."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fer_assets.stage import Given, Limits, Recipe, Stage, Surroundings, needs
from fer_ml.base.reading import read_file, read_text, sha256_file
from fer_ml.recipes.profile import VAL_SET, Profile
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.looks import SETS_FILE, planned_before
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "numbers_covered",
        "every number and picture in the template's own prose is a reference, the value of a "
        "claim that its paragraph refers to, or stated with a reason",
        "write claim('id') or value(...), add a claim, or stated(text, why=...)",
    ),
    Gate(
        "figures_from_artifacts",
        "every figure is, byte for byte, a file of the artifact that it names",
        "use figure(asset, file, caption)",
    ),
    Gate(
        "citations_listed",
        "every citation matches exactly one entry of the references",
        "add the entry, or correct the number",
    ),
    Gate(
        "references_cited",
        "every entry of the references is cited",
        "cite it, or remove it",
        blocking=False,
    ),
    Gate(
        "checklist_stated",
        "the report states what the reproducibility checklist asks for",
        "add what is missing: a run's files, soft labels, loading, resuming",
        blocking=False,
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "report.md": "the report",
    "report.html": "the same, figures inside",
    "report.pdf": "the same, figures inside",
    "figures/<asset>_<file>": "Only with figures: copies of artifacts' pictures",
    "template.md.j2": "the template of the report",
    "report.json": (
        "`references` (`kind`, and as it has one `asset`, `sha256`, `file`, `file_sha256`, "
        "`pointer`, `printed`, `id`, `status`, `copy`, `rule`, `passed`, `text`, `why`), "
        "`uncovered` (`line`, `column`, `kind`, `text`), `citations` (`listed`, `used`, `missing`,"
        " `uncited`, `twice`, `first_line`), `checklist` (`item`, `asks`, `stated`, `lines`)"
    ),
}


@dataclass(frozen=True)
class ReportRecipe(Recipe):
    """What the report states about the profile: its name, and whether its faces are synthetic."""

    profile: str
    drawn: bool

    @classmethod
    def of(cls, profile: Profile, partition: str | None) -> "ReportRecipe":
        """Return the recipe from the profile."""
        return cls(profile.name, profile.drawn)


def files(around: Surroundings, partition: str | None) -> dict[str, Any]:
    """Return hashes of the template with its parts, and of the plan of comparisons."""
    from fer_ml.report.template import read_template

    template = read_template(around.report_template())
    plan = around.plan_file()
    return {
        "template_sha256": sha256(template.source.encode()).hexdigest(),
        "plan_sha256": sha256_file(plan) if plan.is_file() else None,
    }


def build(run: RunFolder, job: Job[ReportRecipe]) -> None:
    """Write ``report.md``, ``report.html`` and ``report.pdf``, and what they refer to."""
    from fer_ml.report.document import write_report
    from fer_ml.report.references import References

    plan = _plan(run, job)
    references = References(job.input, run, job.recipe.profile, job.recipe.drawn, plan)
    write_report(run, job.paths["report"], references)


def _plan(run: RunFolder, job: Job[ReportRecipe]) -> str:
    """Return what the report states about its plan of comparisons, of which it keeps a copy."""
    path = job.paths.get("plan")
    if path is None:
        return "No plan of the comparisons was written before the run."
    text = read_file(path)
    run.path("plan.md").write_bytes(text)
    digest = sha256_file(path)
    set_files = [a.read_json(SETS_FILE) for a in job.inputs.values() if SETS_FILE in a.record.files]
    # Val may be looked at: it is what choices are made on.
    sets = {
        name: faces
        for each in set_files
        for name, faces in each.items()
        if not name.startswith(VAL_SET)
    }
    if not planned_before(job.store.root.parent, sets, digest):
        when = "or changed after a look at its sets"
    elif told := [name for name in sets if name in job.looked_at]:
        when = f"before any look of this artifact root, but after others at {', '.join(told)}"
    else:
        when = "before any look at its sets"
    return f"The comparisons were planned in `plan.md` (`{digest[:12]}`), written {when}."


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge the report: its numbers, figures, citations and checklist."""
    from fer_ml.evidence.numbers import GIVEN
    from fer_ml.report.checklist import check_list
    from fer_ml.report.citations import check_citations
    from fer_ml.report.document import REPORT, TEMPLATE, foreign_figures, images

    document = artifact.read_json(GIVEN)
    text = read_text(artifact.file(REPORT))
    bare = [f"{u['line']}:{u['column']}: {u['kind']} {u['text']}" for u in document["uncovered"]]
    stated = sum(given["kind"] == "stated" for given in document["references"])
    foreign = foreign_figures(artifact, store, text)
    citations = check_citations(text)
    lost = [f"[{n}] is not listed" for n in citations.missing]
    lost += [f"[{n}] is listed twice" for n in citations.twice]
    unused = [f"[{n}]" for n in citations.uncited]
    lacking = [finding.item.asks for finding in check_list(text) if not finding.stated]
    return [
        _none("numbers_covered", bare, f"line:column of {TEMPLATE}; {stated} stated by hand"),
        _none("figures_from_artifacts", foreign)
        if images(text)
        else not_applicable("figures_from_artifacts", "no figure in the report"),
        _none("citations_listed", lost)
        if citations.used or citations.twice
        else not_applicable("citations_listed", "no citation in the report"),
        _none("references_cited", unused)
        if citations.listed
        else not_applicable("references_cited", "no list of references in the report"),
        _none("checklist_stated", lacking),
    ]


def _none(rule: str, findings: list[str], detail: str = "") -> Outcome:
    return Outcome(rule, not findings, len(findings), 0, detail, tuple(findings[:5]))


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``report``; its inputs are the claims and what the template cites."""
    return [
        Stage(
            asset="report",
            group="report",
            kinds=("markdown",),
            describe="The report, rendered from a template in which every number, table and "
            "figure is a reference: `report.md`, `report.html`, `report.pdf`; `report.json` "
            "lists the references.",
            needs=needs("report_claims"),
            cites=given.reported,
            recipe=ReportRecipe.of,
            files=files,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
            looks=True,
            code_version="6",
        )
    ]
