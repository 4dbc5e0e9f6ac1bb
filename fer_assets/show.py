"""What several commands print: how many gates passed, and the path of a trace as a tree."""

from pathlib import Path

from rich.markup import escape
from rich.tree import Tree

from fer_assets.pipeline import Pipeline
from fer_ml.claims.graph import Traced, trace_what
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node, Tracer
from fer_ml.storage.artifact import Artifact

STATUS_COLOURS = {"grounded": "green", "stale": "yellow", "ungrounded": "yellow"}


def checks_text(artifact: Artifact) -> str:
    """How many gates passed; yellow when one warns, red when one blocks."""
    gates = artifact.demands.of(artifact.record.asset)
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


def status_text(claim: Resolved) -> str:
    """A claim's status in its colour."""
    colour = STATUS_COLOURS.get(claim.status, "red")
    return f"[{colour}]{claim.status.replace('_', ' ')}[/]"


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
    reason = f" [dim]({escape(claim.reason)})[/]" if claim.reason else ""
    tree = Tree(f"{status_text(claim)}{reason} {escape(claim.sentence())}")
    cited = [source.file + source.pointer for source in claim.claim.sources()]
    seen: set[tuple[str, str]] = set()
    for root in traced.roots:
        place = escape(cited[0]) if len(traced.roots) == 1 else ""
        seen.add(root.identity)
        _grow(tree.add(f"{_label(root)} [dim]{place}[/]"), root, seen)
    return tree


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
        if node.artifact.demands.of(record.asset):
            text += f" {checks_text(node.artifact)}"
    return text
