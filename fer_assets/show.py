"""Output that several commands share: numbers of passed gates, and traces as trees."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

from fer_assets.commands.common import styled
from fer_assets.pipeline import Pipeline
from fer_ml.base.labels import CLASSES
from fer_ml.claims.graph import Traced, trace_what
from fer_ml.claims.model import read_claims
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node, Tracer
from fer_ml.storage.artifact import Artifact

if TYPE_CHECKING:
    from fer_ml.evidence.faces import Face

STATUS_COLOURS = {"grounded": "green", "stale": "yellow", "ungrounded": "yellow"}


def checks_text(artifact: Artifact) -> Text:
    """Return how many applicable gates passed; yellow for a warning, red for a blocking failure."""
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
    """Return a claim's status in its colour."""
    colour = STATUS_COLOURS.get(claim.status, "red")
    return styled((claim.status.replace("_", " "), colour))


def trace_of(pipeline: Pipeline, what: str) -> Traced:
    """Trace a claim of the profile's claims file by its id, or an asset, a file or a hash."""
    path = pipeline.claims_file()
    claims = read_claims(path) if path.is_file() else None
    return trace_what(Tracer(pipeline.store, pipeline.fingerprints()), claims, what)


def faces_of(pipeline: Pipeline, what: str) -> "list[Face]":
    """Return the faces that ``what`` matches, with everything made from them."""
    from fer_ml.claims.verify import verify_store
    from fer_ml.evidence.faces import find_faces
    from fer_ml.evidence.rows import evidence_of
    from fer_ml.privacy.log import read_log

    store, path = pipeline.store, pipeline.claims_file()
    claims = verify_store(store, path, pipeline.fingerprints()).claims if path.is_file() else ()
    log = read_log(pipeline.settings.home)
    return find_faces(store, what, evidence_of(store, claims).values(), log)


def face_tree(face: "Face") -> Tree:
    """Return a tree about a face: its source, the predictions for it, and the claims on it."""
    row = face.row
    tree = Tree(styled((row["sample_id"], "bold"), f" {row['label']} of {row['source']}"))
    if face.purged:
        tree.add(styled((f"purged on {face.purged}", "yellow"), ": no picture of it is here"))
    tree.add(styled(("raw file ", "dim"), face.raw))
    if row.get("votes"):
        tree.add(styled(("votes ", "dim"), row["votes"], (f" for {', '.join(CLASSES)}", "dim")))
    splits = tree.add("manifests")
    for asset, split in face.splits.items():
        splits.add(styled(asset, (f" {split}", "cyan")))
    said = tree.add("models")
    # Rows without a twin are answered in a file of their own too.
    for one in {(one.model, one.says, one.confidence): one for one in face.said[::-1]}.values():
        colour = "green" if one.right else "red"
        words = ((one.says, colour), f" {one.confidence:.1%} ", (one.file, "dim"))
        said.add(styled(f"{one.model} ", *words))
    for title, counts in (
        ("claims that count it", True),
        ("claims made of a manifest with it", False),
    ):
        branch = tree.add(title)
        for claim in face.claims:
            if claim.counts is counts:
                branch.add(styled(claim.id, (f" {claim.status} ", "dim"), claim.sentence))
    return tree


def trace_tree(traced: Traced) -> Tree:
    """Return the path as a tree; a node that appeared before is named, but not expanded again."""
    if traced.claim is None:
        tree = Tree(_label(traced.roots[0]))
        _grow(tree, traced.roots[0], set())
        return tree
    claim = traced.claim
    reason = f" ({claim.reason})" if claim.reason else ""
    tree = Tree(styled(status_text(claim), (reason, "dim"), f" {claim.sentence()}"))
    if claim.looked_before:
        tree.add(styled((claim.looked_before, "yellow")))
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
    """Return a path relative to the current folder if that is shorter."""
    folder = Path.cwd()
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


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
