"""What ``fer`` prints: tables and trees, from records and receipts."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from fer_assets.lineage import Pipeline
from fer_ml.adoption import ADOPTION_FILE
from fer_ml.claims.graph import Traced, trace_what
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolve import Resolved
from fer_ml.claims.trace import Node, Tracer
from fer_ml.claims.verify import Verified
from fer_ml.storage.gates import MANIFEST_GATES, gates_of
from fer_ml.storage.store import Artifact

if TYPE_CHECKING:
    # What plans with Dagster takes seconds to import, and a trace needs none of it.
    from fer_assets.digest import Digest
    from fer_assets.plan import Failures, Made
    from fer_assets.purging import Plan
    from fer_ml.report.checklist import Finding
    from fer_ml.report.citations import Citations

#: The file of an asset that people look at first.
MAIN_FILES = (
    "best.pt",
    "softlabels.npz",
    "benchmark.csv",
    "comparison.json",
    "error_analysis.html",
    "model.onnx",
    "report.md",
    "claims.json",
    "candidate_sessions.json",
    "selection.json",
    "ensemble.json",
    "logits.npz",
    "demo_kpis.json",
    "per_frame.csv",
    "manifest_validation_all.json",
)


def main_file(artifact: Artifact) -> str:
    """The file of an artifact that people look at first."""
    for name in MAIN_FILES:
        if name in artifact.record.files:
            return name
    manifests = [
        name
        for name in artifact.record.files
        if name.endswith(".csv") and not name.startswith(("quarantine", "excluded"))
    ]
    return (manifests or list(artifact.record.files))[0]


def made_table(done: "list[Made]") -> Table:
    """One row for each target: rows or steps, time, peak memory, file, hash, checks."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("asset", overflow="fold")
    for name in ("rows", "steps", "s", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    for name in ("sha256", "checks"):
        table.add_column(name, no_wrap=True)
    for made in done:
        record = made.artifact.record
        table.add_row(
            escape(made.target.label),
            _cell(record.summary.get("rows", record.summary.get("frames"))),
            _cell(record.summary.get("steps")),
            f"{record.seconds:.1f}",
            _cell(record.summary.get("peak_memory_mb")),
            main_file(made.artifact),
            made.artifact.sha256[:10],
            checks_text(made.artifact),
        )
    return table


def warnings(done: "list[Made]") -> Iterator[str]:
    """A line for each gate that did not pass; blocking ones never get here."""
    for made in done:
        for receipt in made.artifact.receipts().values():
            if not receipt.passed:
                yield (
                    f"[yellow]note[/] {escape(made.target.label)}: {receipt.rule} is "
                    f"{receipt.value}, limit {receipt.limit}. {escape(receipt.detail)}"
                )


def failures(failed: "Failures", command: str) -> str:
    """What failed and why, what was not made because of it, and how to go on."""
    faults: dict[str, list[str]] = {}
    for target, fault in failed.faults.items():
        faults.setdefault(str(fault), []).append(target.label)
    lines = [f"error: {fault}\n  failed: {', '.join(labels)}" for fault, labels in faults.items()]
    lost: dict[str, list[str]] = {}
    for target, below in failed.lost.items():
        lost.setdefault(", ".join(t.label for t in below), []).append(target.label)
    lines += [
        f"not made, since it rests on {on}: {', '.join(labels)}" for on, labels in lost.items()
    ]
    return "\n".join([*lines, f"When that is mended, go on with: {command}"])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def checks_text(artifact: Artifact) -> str:
    """How many gates passed; yellow when one warns, red when one blocks."""
    gates = gates_of(artifact.record.asset)
    if not gates:
        return "[dim]-[/]"
    receipts = artifact.receipts()
    failed = [g for g in gates if g.rule not in receipts or not receipts[g.rule].passed]
    text = f"{len(gates) - len(failed)}/{len(gates)}"
    if not failed:
        return f"[green]{text}[/]"
    # Whether a gate blocks may be up to the profile, which its receipt knew.
    blocks = [receipts[g.rule].blocking if g.rule in receipts else g.blocking for g in failed]
    colour = "red" if any(blocks) else "yellow"
    return f"[{colour}]{text}[/]"


def report_checks(citations: "Citations", items: "tuple[Finding, ...]") -> list[Table | str]:
    """The citation check and the checklist of a report."""
    counts = Table(box=None, pad_edge=False, show_header=False)
    counts.add_row("references listed", str(len(citations.listed)), "")
    counts.add_row("cited", str(len(citations.used)), "")
    for name, numbers, colour in (
        ("cited and not listed", citations.missing, "red"),
        ("listed twice", citations.twice, "red"),
        ("listed and not cited", citations.uncited, "yellow"),
    ):
        which = " ".join(
            f"[{number}]" + (f" in line {citations.used[number]}" if "cited and" in name else "")
            for number in numbers
        )
        count = f"[{colour}]{len(numbers)}[/]" if numbers else "[green]0[/]"
        counts.add_row(name, count, escape(which))
    checklist = Table(
        title="Reproducibility checklist",
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
    )
    for found in items:
        mark = "[green]stated[/]" if found.stated else "[yellow]not stated[/]"
        lines = ", ".join(str(line) for line in sorted({*found.lines} - {0}))
        checklist.add_row(mark, found.item.asks, f"line {lines}" if lines else "")
    return [counts, "", checklist]


def closing(pipeline: Pipeline) -> Iterator[Table | Tree | str]:
    """The end of ``fer materialize``: the benchmark, then one claim traced to its sources."""
    benchmark = pipeline.store.current("benchmark")
    if benchmark is not None:
        yield benchmark_table(benchmark, synthetic=pipeline.profile.drawn)
    claims = pipeline.store.current("report_claims")
    if claims is not None:
        held = claims.read_json("claims.json")
        yield (
            f"{held['counts']['grounded']} of {len(held['claims'])} claims grounded. One of them, "
            "traced:"
        )
        yield trace_tree(trace_of(pipeline, held["claims"][-1]["id"]))


def benchmark_table(benchmark: Artifact, *, synthetic: bool) -> Table:
    """Macro-F1 by model and evaluation set; n and split stand in the header."""
    held = benchmark.read_json("benchmark.json")
    entries = held["entries"]
    kind = " [yellow](drawn faces: synthetic, never a result)[/]" if synthetic else ""
    table = Table(
        title=f"macro-F1, raw{kind}",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    table.add_column("model")
    apart: dict[tuple[str, str], str] = {}
    first = next(iter(entries.values()))
    sets = {name: entry for name, entry in first.items() if name not in held["same_rows"]}
    for name, entry in sets.items():
        chosen = ", selects" if entry["selection_split"] else ""
        table.add_column(f"{name}\n{entry['split']}{chosen}, n={entry['n']}", justify="right")
        for other in held["tables"][name][1:]:
            apart |= {(model, name): ", ".join(other["why_apart"]) for model in other["names"]}
    table.add_column("ECE scaled\ntest_all_sources", justify="right")
    for model, cells in entries.items():
        table.add_row(
            model,
            *(
                f"{cells[name]['raw']['macro_f1']:.3f}{'*' * ((model, name) in apart)}"
                for name in sets
            ),
            f"{cells['test_all_sources']['temperature_scaled']['ece']:.3f}",
        )
    if apart:
        told = "\n".join(dict.fromkeys(f"{name}: {why}" for (_, name), why in apart.items()))
        table.caption = f"* not to be compared with the first row. {told}"
        table.caption_justify = "left"
    return table


def validation(report: dict[str, Any]) -> list[Table | str]:
    """A validation report: its rules, what the paths are relative to, and the verdict."""
    table = Table(
        title=f"{report['manifest']}: {report['rows_total']:,} rows, "
        f"{report['rows_valid']:,} of them usable",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name in ("", "rule", "found", "first example"):
        table.add_column(name, overflow="fold")
    for rule, outcome in report["rules"].items():
        mark = "[green]ok[/]"
        if not outcome["passed"]:
            mark = "[red]red[/]" if outcome["blocking"] else "[yellow]note[/]"
        example = outcome["examples"][0] if outcome["examples"] else outcome["detail"]
        table.add_row(mark, rule, f"{outcome['value']:,}", escape(example))
    from fer_ml.manifests.inspection import how_checked

    lines: list[Table | str] = [table, escape(f"Images: {how_checked(report['checked'])}.")]
    for base in report["bases"]:
        cut = f", its first {base['cut']} folders taken away" if base["cut"] else ""
        where = f"below {base['root']}{cut}" if base["root"] else "nowhere"
        lines.append(escape(f"Paths {base['start']}... ({base['rows']:,} rows): found {where}."))
    twins = sum(held["with_twin"] for held in report["test_twins"].values())
    tests = sum(held["test_rows"] for held in report["test_twins"].values())
    if tests:
        lines.append(f"Test rows with a twin in another split: {twins:,} of {tests:,}.")
    red = [
        rule for rule, held in report["rules"].items() if held["blocking"] and not held["passed"]
    ]
    for rule in red:
        fix = next(gate.fix for gate in MANIFEST_GATES if gate.rule == rule)
        lines.append(f"[red]{rule}[/]: {escape(fix)}")
    lines.append("[red]Not fit for use.[/]" if red else "[green]Fit for use.[/]")
    return lines


def adoption(artifact: Artifact) -> Iterator[str]:
    """What an adopted result's examination found; nothing for one that was made here."""
    if ADOPTION_FILE not in artifact.record.files:
        return
    told = artifact.read_json(ADOPTION_FILE)
    files = f"{len(told['files'])} file{'s' * (len(told['files']) > 1)}"
    yield f"Adopted: {told['kind']}, {files}, came as {escape(told['origin'])}."
    if told["missing"]:
        yield f"[yellow]missing[/] {escape(', '.join(told['missing']))}"
    if told["left_out"]:
        yield f"[dim]left out  {escape(', '.join(told['left_out']))}[/]"
    failed = [check for check in told["checks"] if not check["holds"]]
    yield f"{len(told['checks']) - len(failed)} of {len(told['checks'])} checks hold."
    for check in failed:
        yield f"[red]against[/] {check['check']}: {escape(check['detail'])}"
    for what in told["unverified"]:
        yield f"[yellow]unknown[/] {escape(what)}"


def trace_of(pipeline: Pipeline, what: str) -> Traced:
    """Trace a claim of the profile's claims file by its id, an asset, a file or a hash."""
    path = pipeline.claims_file()
    held = read_claims(path) if path.is_file() else None
    return trace_what(Tracer(pipeline.store, pipeline.fingerprints()), held, what)


def trace_tree(traced: Traced) -> Tree:
    """The path as a tree; what was shown before is named and not unfolded again."""
    if traced.claim is None:
        tree = Tree(_label(traced.roots[0]))
        _grow(tree, traced.roots[0], set())
        return tree
    claim = traced.claim
    tree = Tree(f"{_status(claim)} {escape(claim.sentence())}")
    cited = [source.file + source.pointer for source in claim.claim.sources()]
    seen: set[tuple[str, str]] = set()
    for root in traced.roots:
        place = escape(cited[0]) if len(traced.roots) == 1 else ""
        seen.add(root.identity)
        _grow(tree.add(f"{_label(root)} [dim]{place}[/]"), root, seen)
    return tree


COLOURS = {"grounded": "green", "stale": "yellow", "ungrounded": "yellow"}


def _status(claim: Resolved) -> str:
    reason = f" [dim]({escape(claim.reason)})[/]" if claim.reason else ""
    return f"[{COLOURS.get(claim.status, 'red')}]{claim.status.replace('_', ' ')}[/]{reason}"


def claims_table(found: Verified) -> Table:
    """Every claim with its status; the reason stands below the sentence."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("status", no_wrap=True)
    for name in ("claim", "sentence"):
        table.add_column(name, overflow="fold")
    for claim in found.claims:
        colour = COLOURS.get(claim.status, "red")
        reason = f"\n[dim]{escape(claim.reason)}[/]" if claim.reason else ""
        table.add_row(
            f"[{colour}]{claim.status.replace('_', ' ')}[/]",
            claim.claim.id,
            escape(claim.sentence()) + reason,
        )
    return table


def claims_summary(found: Verified) -> Iterator[str]:
    """How many claims have each status, over how many artifacts, and what was not looked at."""
    counts = ", ".join(
        f"{count} {status.replace('_', ' ')}" for status, count in found.counts.items() if count
    )
    steps = [node for node in found.lineage if node.artifact]
    files = sum(len(node.artifact.record.files) for node in steps if node.artifact)
    yield f"{len(found.claims)} claims: {counts}."
    if steps:
        yield f"{files} files of {len(steps)} artifacts were hashed again, their receipts read."
    if found.not_looked_at:
        yield f"Raw folders that are not here, not looked at: {', '.join(found.not_looked_at)}."


def _grow(branch: Tree, node: Node, seen: set[tuple[str, str]]) -> None:
    for child in node.inputs:
        if child.identity in seen and child.inputs:
            branch.add(f"{_label(child)} [dim]above[/]")
            continue
        seen.add(child.identity)
        _grow(branch.add(_label(child)), child, seen)


def _short(path: str) -> str:
    """A path relative to here where that is shorter to read."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _label(node: Node) -> str:
    colour = "green" if node.problem is None else "red"
    text = f"[{colour}]{escape(node.item.key)}[/] [dim]{node.item.sha256[:10]}[/]"
    if node.problem:
        text += f" [red]{escape(node.problem)}[/]"
    if not node.looked:
        text += " [dim]not here, not looked at[/]"
    if node.item.root:
        text += f" [dim]{escape(_short(node.item.root))}[/]"
    if node.artifact:
        record = node.artifact.record
        text += f" [dim]{record.created_at[:16].replace('T', ' ')}[/]"
        if record.splits:
            chosen = ", ".join(f"{what} by {split}" for what, split in record.splits.items())
            text += f" [cyan]{chosen}[/]"
        if gates_of(record.asset):
            text += f" {checks_text(node.artifact)}"
    return text


STATE_COLOURS = {"red": "red", "stale": "yellow", "unverified": "yellow", "warns": "dim"}


def digest_table(digest: "Digest") -> Iterator[Table | str]:
    """The digest for a terminal: what is not green, the worst first."""
    if digest.entries:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("", no_wrap=True)
        for name in ("what", "found", "to do"):
            table.add_column(name, overflow="fold")
        table.add_column("rest on it", justify="right", no_wrap=True)
        for entry in digest.entries:
            table.add_row(
                f"[{STATE_COLOURS[entry.state]}]{entry.state}[/]",
                escape(entry.name),
                escape(entry.what),
                escape(entry.fix),
                str(entry.resting or ""),
            )
        yield table
    yield escape(digest.headline)
    yield (
        f"{digest.made} artifacts and {digest.claims} claims looked at; {digest.not_made} not made."
    )


def purge_plan(plan: "Plan", *, carried_out: bool) -> Iterator[Table | str]:
    """What a purge removes or removed, what is left to its user, and what rests on it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("profile")
    for name in ("faces", "images of the pool", "sheets, pages, thumbs", "rest on it"):
        table.add_column(name, justify="right")
    for part in plan.found:
        sheets = sum(len(names) for names in part.faces.values())
        figures = (part.samples, len(part.pool), sheets, len({a.key for a in part.resting}))
        table.add_row(escape(part.store.profile), *map(str, figures))
    yield table
    done = "removed" if carried_out else "would be removed"
    caches = sum(len(part.caches) for part in plan.found)
    recorded = "".join(f", session {folder.name}" for folder in plan.wanted.folders)
    yield escape(f"{len(plan.files) - caches} files and {caches} caches {done}{recorded}.")
    if plan.resting:
        yield escape(f"Rest on it, and are stale then: {', '.join(plan.resting)}.")
    for profile, claims in plan.claims.items():
        if claims:
            yield escape(f"Claims of {profile} on it: {', '.join(claims)}.")
    for path in plan.raw:
        yield f"[yellow]still in the raw folder[/] {escape(str(path))}"
    if plan.raw:
        yield "Remove these yourself. They are kept out of every manifest made from now on."
    if carried_out:
        yield "Make what is stale again: fer materialize. What was done stands in purged.json."
    else:
        yield "[bold]Nothing was changed.[/] To carry it out, add --yes."
