"""What ``fer`` prints: tables and trees, from records and receipts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from fer_assets.lineage import Pipeline
from fer_assets.plan import Made
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolve import Resolved, resolve_claim
from fer_ml.claims.trace import Node, Tracer, find_artifact
from fer_ml.gates import MANIFEST_GATES, gates_of
from fer_ml.store import Artifact

#: The file of an asset that people look at first.
MAIN_FILES = (
    "best.pt",
    "softlabels.npz",
    "benchmark.csv",
    "model.onnx",
    "report.md",
    "claims.json",
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


def made_table(done: list[Made]) -> Table:
    """One row for each target: rows or steps, time, file, hash, checks."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("asset", overflow="fold")
    for name in ("rows", "steps", "s"):
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
            main_file(made.artifact),
            made.artifact.sha256[:10],
            checks_text(made.artifact),
        )
    return table


def warnings(done: list[Made]) -> Iterator[str]:
    """A line for each gate that did not pass; blocking ones never get here."""
    for made in done:
        for receipt in made.artifact.receipts().values():
            if not receipt.passed:
                yield (
                    f"[yellow]note[/] {escape(made.target.label)}: {receipt.rule} is "
                    f"{receipt.value}, limit {receipt.limit}. {escape(receipt.detail)}"
                )


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
    colour = "red" if any(gate.blocking for gate in failed) else "yellow"
    return f"[{colour}]{text}[/]"


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
        yield trace_of(pipeline, held["claims"][-1]["id"]).tree()


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
    from fer_ml.probe import how_checked

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


@dataclass(frozen=True)
class Traced:
    """A trace, with the claim it started at, if any."""

    node: Node
    claim: Resolved | None

    @property
    def sound(self) -> bool:
        """Whether everything on the path is current, whole and gated."""
        if self.claim is not None and self.claim.status != "grounded":
            return False
        return all(node.problem is None for node in self.node.walk())

    def to_json(self) -> dict[str, Any]:
        """The claim and the path as JSON values."""
        return {
            "claim": self.claim.to_json() if self.claim else None,
            "sound": self.sound,
            "path": self.node.to_json(),
        }

    def tree(self) -> Tree:
        """The path as a tree; what was shown before is named and not unfolded again."""
        root = _label(self.node)
        if self.claim is not None:
            colour = "green" if self.claim.status == "grounded" else "red"
            reason = f" ({escape(self.claim.reason)})" if self.claim.reason else ""
            tree = Tree(f"[{colour}]{self.claim.status}[/]{reason} {escape(self.claim.sentence())}")
            branch = tree.add(f"{root} [dim]{self.claim.claim.file}{self.claim.claim.pointer}[/]")
        else:
            tree = branch = Tree(root)
        _grow(branch, self.node, set())
        return tree


def trace_of(pipeline: Pipeline, what: str) -> Traced:
    """Trace a claim id of the profile's claims file, or whatever ``find_artifact`` understands."""
    tracer = Tracer(pipeline.store, pipeline.fingerprints())
    path = pipeline.claims_file()
    for claim in read_claims(path).claims if path.is_file() else ():
        if claim.id == what:
            resolved = resolve_claim(claim, pipeline.store, tracer)
            if resolved.trace is not None:
                return Traced(resolved.trace, resolved)
    return Traced(tracer.trace(find_artifact(pipeline.store, what)), None)


def _grow(branch: Tree, node: Node, seen: set[tuple[str, str]]) -> None:
    for child in node.inputs:
        key = (child.item.key, child.item.sha256)
        if key in seen and child.inputs:
            branch.add(f"{_label(child)} [dim]above[/]")
            continue
        seen.add(key)
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
