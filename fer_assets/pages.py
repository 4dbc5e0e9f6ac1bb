"""Descriptions of asset pages, and the addresses of views that ``fer ui`` prints.

An asset's description says what it is, how good it is, its inputs and what depends on it, with
links. Figures and pictures of its materializations come from ``metadata``.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from urllib.parse import quote

from fer_assets.keys import LOCATION, repository_name
from fer_assets.pipeline import Pipeline
from fer_assets.stage import Stage
from fer_ml.claims.model import Claim, ComparisonClaim

#: Where a group of assets is explained; the keys of every file stand in ``docs/reference.md``.
DOCS = {
    "raw": "docs/data.md",
    "manifests": "docs/data.md",
    "folds": "docs/training.md",
    "teachers": "docs/training.md",
    "distillation": "docs/training.md",
    "students": "docs/training.md",
    "experiments": "docs/training.md",
    "evaluation": "docs/evaluation.md",
    "models": "docs/evaluation.md",
    "comparisons": "docs/evaluation.md",
    "deployment": "docs/demo.md",
    "adopted": "docs/training.md",
    "report": "docs/claims.md",
}

#: What ``fer ui`` shows of the artifact root stands below this path.
PAGES = "/fer/"

#: Claims that a page names; the page of ``report_claims`` has all.
MAX_CLAIMS = 20

#: Views by name: an asset selection, and the groups that the graph shows unfolded; a catalog where
#: there are none. Dagster keeps no views of its own.
VIEWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "report claims": ('+key:"*/report_claims" or key:"*/report"', ("report", "evaluation")),
    "data health": ('group:"raw" or group:"manifests"', ("raw", "manifests")),
    "trained models": ('kind:"pytorch" or kind:"onnx"', ()),
}


def view_path(selection: str, unfolded: Sequence[str] = ()) -> str:
    """Return the UI path that shows ``selection`` as a graph or as a catalog."""
    quoted = quote(selection, safe="")
    if not unfolded:
        return f"/assets?asset-selection={quoted}"
    groups = quote(",".join(f"global@global:{group}" for group in unfolded))
    return f"/asset-groups~{quoted}/?expanded={groups}"


def asset_path(profile: str, asset: str, partition: str | None = None) -> str:
    """Return the path of the page of an asset, or of one partition of it."""
    page = f"/assets/{profile}/{asset}"
    return f"{page}?view=partitions&partition={partition}" if partition else page


def check_path(profile: str, asset: str, rule: str) -> str:
    """Return the path of a gate on its asset's page."""
    return f"{asset_path(profile, asset)}?view=checks&checkDetail={rule}"


def runs_path(profile: str) -> str:
    """Return the path that lists the runs of one profile; Dagster's own lists those of all."""
    of_profile = f"tag:.dagster/repository={repository_name(profile)}@{LOCATION}"
    return f"/runs?q[0]={quote(of_profile, safe='')}"


def link(profile: str, asset: str, partition: str | None = None) -> str:
    """Return a Markdown link to an asset's page; a partition is part of the name."""
    name = f"{asset}[{partition}]" if partition else asset
    return f"[`{name}`]({asset_path(profile, asset, partition)})"


def describe_source(pipeline: Pipeline, source: str) -> str:
    """Return the description of ``raw/<source>``: what it is and what depends on it."""
    spec = pipeline.profile.source(source)
    consumers = [stage.asset for stage in pipeline.stages.values() if stage.raw == source]
    return "\n\n".join(
        [
            f"{spec.title or source}, as its publisher lays it out (adapter `{spec.adapter}`). The "
            "data version is a fingerprint of its files' path, size and time.",
            f"**Rests on it:** {_links(pipeline, consumers)}.",
            f"**More:** `{DOCS['raw']}`.",
        ]
    )


def describe(pipeline: Pipeline, stage: Stage) -> str:
    """Return the Markdown description of a stage's asset: content, quality, inputs, dependants."""
    made_of = [need.asset for need in stage.needs]
    if stage.raw is not None:
        made_of.insert(0, f"raw/{stage.raw}")
    shown = pipeline.dagster_stages.values()
    rests = [s.asset for s in shown if stage.asset in {need.asset for need in s.needs}]
    claims = claims_on(pipeline.stages, pipeline.claims, stage.asset)
    lines = [
        stage.describe,
        f"**Is it good?** {_gates(pipeline, stage.asset)}",
        f"**Made of:** {_links(pipeline, made_of)}, by `{stage.module}`.",
        f"**Rests on it:** {_links(pipeline, rests)}.",
        f"**Claims on it:** {_claims_line(pipeline, claims)}",
        f"**More:** `{DOCS.get(stage.group, 'docs/reference.md')}`; every file of it and its keys: "
        "`docs/reference.md`.",
    ]
    return "\n\n".join(lines)


def claims_on(stages: Mapping[str, Stage], claims: Sequence[Claim], asset: str) -> list[str]:
    """Return the ids of claims that cite ``asset`` or anything made from it, in file order."""
    return claims_citing(claims, downstream(stages, asset))


def claims_citing(claims: Sequence[Claim], assets: Set[str]) -> list[str]:
    """Return the ids of claims that cite one of ``assets``, in file order."""
    citing_ids = {claim.id for claim in claims if claim.assets & assets}
    # A comparison names no asset: it rests on what its two claims rest on.
    return [
        claim.id
        for claim in claims
        if claim.id in citing_ids
        or (isinstance(claim, ComparisonClaim) and {claim.left, claim.right} & citing_ids)
    ]


def downstream(stages: Mapping[str, Stage], asset: str) -> set[str]:
    """Return ``asset`` and everything made from it, directly or indirectly."""
    assets = {asset}
    # The table's order follows the inputs, so one pass is enough.
    for stage in stages.values():
        if any(need.asset in assets for need in stage.needs):
            assets.add(stage.asset)
    return assets


def _links(pipeline: Pipeline, assets: Iterable[str]) -> str:
    profile = pipeline.profile.name
    return ", ".join(link(profile, asset) for asset in dict.fromkeys(assets)) or "nothing"


def _gates(pipeline: Pipeline, asset: str) -> str:
    gates = pipeline.gates(asset)
    if not gates:
        return "No gate of its own: what it passes on was judged before."
    blocking = sum(gate.blocking for gate in gates)
    page = asset_path(pipeline.profile.name, asset)
    return (
        f"Its [gates]({page}?view=checks) say so: {len(gates)}, of which {blocking} "
        "must pass before anything is made of it."
    )


def _claims_line(pipeline: Pipeline, claims: list[str]) -> str:
    if not claims:
        return "none."
    ids = ", ".join(f"`{claim}`" for claim in claims[:MAX_CLAIMS])
    more = f" and {len(claims) - MAX_CLAIMS} more" if len(claims) > MAX_CLAIMS else ""
    return f"{len(claims)} in {link(pipeline.profile.name, 'report_claims')}: {ids}{more}."
