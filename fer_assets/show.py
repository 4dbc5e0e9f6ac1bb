"""What several commands print: how many gates passed, and the path of a trace as a tree."""

from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from fer_assets.commands.common import styled
from fer_assets.pipeline import Pipeline
from fer_ml.claims.graph import Traced, trace_what
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node, Tracer
from fer_ml.storage.artifact import Artifact

STATUS_COLOURS = {"grounded": "green", "stale": "yellow", "ungrounded": "yellow"}


def checks_text(artifact: Artifact) -> Text:
    """How many of the applicable gates passed; yellow when one warns, red when one blocks."""
    gates = artifact.demands.of(artifact.record.asset)
    if not gates:
        return styled(("-", "dim"))
    receipts = artifact.receipts()
    asked = [g for g in gates if g.rule not in receipts or receipts[g.rule].passed is not None]
    failed = [g for g in asked if g.rule not in receipts or not receipts[g.rule].passed]
    text = f"{len(asked) - len(failed)}/{len(asked)}"
    if len(asked) < len(gates):
        text += f", {len(gates) - len(asked)} n/a"
    if not failed:
        return styled((text, "green"))
    # Whether a gate blocks may be up to the profile, which its receipt knew.
    blocks = [receipts[g.rule].blocking if g.rule in receipts else g.blocking for g in failed]
    colour = "red" if any(blocks) else "yellow"
    return styled((text, colour))


def status_text(claim: Resolved) -> Text:
    """A claim's status in its colour."""
    colour = STATUS_COLOURS.get(claim.status, "red")
    return styled((claim.status.replace("_", " "), colour))


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
    reason = f" ({claim.reason})" if claim.reason else ""
    tree = Tree(styled(status_text(claim), (reason, "dim"), f" {claim.sentence()}"))
    cited = [source.file + source.pointer for source in claim.claim.sources()]
    seen: set[tuple[str, str]] = set()
    for root in traced.roots:
        place = cited[0] if len(traced.roots) == 1 else ""
        seen.add(root.identity)
        _grow(tree.add(styled(_label(root), (f" {place}", "dim"))), root, seen)
    return tree


def _grow(branch: Tree, node: Node, seen: set[tuple[str, str]]) -> None:
    for child in node.inputs:
        if child.identity in seen and child.inputs:
            branch.add(styled(_label(child), (" above", "dim")))
            continue
        seen.add(child.identity)
        _grow(branch.add(_label(child)), child, seen)


def _short(path: str) -> str:
    """A path relative to here where that is shorter to read."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _label(node: Node) -> Text:
    colour = "green" if node.problem is None else "red"
    parts = [(node.item.key, colour), (f" {node.item.sha256[:10]}", "dim")]
    if node.problem:
        parts.append((f" {node.problem}", "red"))
    if not node.looked:
        parts.append((" not here, not looked at", "dim"))
    if node.item.root:
        parts.append((f" {_short(node.item.root)}", "dim"))
    if node.artifact is None:
        return styled(*parts)
    record = node.artifact.record
    parts.append((f" {record.created_at[:16].replace('T', ' ')}", "dim"))
    if record.splits:
        chosen = ", ".join(f"{what} by {split}" for what, split in record.splits.items())
        parts.append((f" {chosen}", "cyan"))
    gated = node.artifact.demands.of(record.asset)
    return styled(*parts, *((" ", checks_text(node.artifact)) if gated else ()))
