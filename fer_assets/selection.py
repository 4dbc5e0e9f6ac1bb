"""Interpret ``--select``: names of this project, and Dagster's selection syntax.

Commas separate parts, and the result is their union. A part is a name (an asset, one partition of
it, or a group) or an expression in Dagster's syntax over such names: ``+teacher[B3]``,
``key:student_* and not kind:onnx``. Dagster's parser works on assets, so it is given each partition
as an asset of its own; ``+`` then follows the inputs of that partition only.
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from fer_assets.lineage import Lineage, Target
from fer_assets.staleness import stale_reason
from fer_ml.base.errors import FerError
from fer_ml.storage.record import parse_label

SYNTAX = (
    "names by commas; +NAME with all that it needs, NAME+ with all that rests on it, 2+NAME so "
    "many steps; key:NAME* group:NAME kind:NAME; and, or, not, ( )"
)
#: What may stand before a colon.
ATTRIBUTES = ("key", "group", "kind", "owner", "tag")
WORDS = ("and", "or", "not", "roots", "sinks")
TOKEN = re.compile(
    r"""\s*(?:
      (?P<leaf>(?P<attribute>\w+)\s*:\s*(?P<value>"[^"]*"|[^\s()+,"]+))
    | (?P<traversal>\d+\++|\++(?:\d+(?![\w/\[]))?)
    | (?P<name>"[^"]*"|[\w/.\[\]*-]+)
    | (?P<other>[()])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Selection:
    """The targets that ``text`` and each part of it select; call it to test one target."""

    text: str
    parts: dict[str, frozenset[Target]]

    def __call__(self, target: Target) -> bool:
        """Whether ``target`` is selected."""
        return any(target in meant for meant in self.parts.values())


def read_selection(pipeline: Lineage, text: str) -> Selection:
    """Parse ``text`` into a selection; ``FerError`` if a part of it matches nothing."""
    names = _names(pipeline)
    parts = {part: frozenset(names.get(part) or _resolve(pipeline, part)) for part in _split(text)}
    if not parts:
        raise FerError("the selection is empty", code="empty-selection", allowed=SYNTAX)
    return Selection(text, parts)


def require_inputs(pipeline: Lineage, selection: Selection, *, force: bool = False) -> None:
    """Raise ``FerError`` if an input of a selected target is missing or invalid.

    The error names the selection that would make it. Nothing is generated or started for this
    check.
    """
    faults: dict[str, tuple[str, str | None]] = {}
    wanted: dict[str, str] = {}
    for part, meant in selection.parts.items():
        for target in (target for target in pipeline.targets() if target in meant):
            for need in pipeline.needed(target):
                fault = None if selection(need) else _unusable(pipeline, target, need, force)
                if fault is not None:
                    what = f"{target.label} needs {need.label}, {fault[0]}"
                    faults.setdefault(need.label, (what, fault[1]))
                    # An expression needs brackets to be taken as a whole.
                    whole = part if re.fullmatch(r"[\w/\[\]-]+", part) else f"({part})"
                    wanted[part] = f"+{whole}"
    if not faults:
        return
    (what, fix), *others = faults.values()
    named = ", ".join([*list(faults)[1:4], *["..."] * (len(others) > 3)])
    more = f"; and {len(others)} more: {named}" if others else ""
    text = ",".join(wanted.get(part, part) for part in selection.parts)
    command = pipeline.command(select=text)
    raise FerError(
        f"{what}{more}", code="inputs-not-ready", fix=f"{fix}; then {command}" if fix else command
    )


def _unusable(
    pipeline: Lineage, target: Target, need: Target, force: bool
) -> tuple[str, str | None] | None:
    """Return why ``need`` cannot be used and what to do first, or ``None``."""
    artifact = pipeline.store.current(need.asset, need.partition)
    if artifact is None:
        return "which has not been made yet", None
    receipts = artifact.receipts()
    for gate in pipeline.gates(need.asset):
        receipt = receipts.get(gate.rule)
        if not gate.blocking or (receipt is not None and receipt.passed is not False):
            continue
        if not force and stale_reason(pipeline, target, {}) is None:
            return None  # It is up to date, and nothing is made of it.
        if receipt is None:
            return f"which gate '{gate.rule}' has not judged yet", None
        return f"which failed gate '{gate.rule}': {receipt.value} (limit {receipt.limit})", gate.fix
    return None


def _split(text: str) -> list[str]:
    """Split at commas, except inside quotes."""
    parts = re.findall(r'(?:"[^"]*"|[^,"]|")+', text)
    return [part.strip() for part in parts if part.strip()]


def _names(pipeline: Lineage) -> dict[str, list[Target]]:
    """Return the targets by name: assets, single partitions and groups."""
    names: dict[str, list[Target]] = {}
    for target in pipeline.targets():
        for name in {target.asset, target.label, pipeline.stage(target.asset).group}:
            names.setdefault(name, []).append(target)
    return names


def _resolve(pipeline: Lineage, part: str) -> set[Target]:
    """Return the targets that an expression selects, using Dagster's parser."""
    graph = _Graph(pipeline)
    keys = graph.meant(_translated(graph, part))
    if keys is None:
        raise FerError(
            f"the selection {part[:80]!r} is not valid", code="invalid-selection", allowed=SYNTAX
        )
    targets = {graph.nodes[key] for key in keys if key in graph.nodes}
    # What rests on a raw folder may be selected by its name; the folder alone may not.
    made = {f"raw/{pipeline.stage(target.asset).raw}" for target in targets}
    raw = sorted({graph.raw[key] for key in keys if key in graph.raw} - made)
    if raw:
        raise FerError(
            f"the selection names {', '.join(raw)}: raw folders belong to their publishers, and "
            "are never made",
            code="selects-raw",
            fix=f"select the assets made from it: {', '.join(raw).replace('raw/', 'manifest/')}",
        )
    if not targets:
        raise FerError(
            f"the selection {part[:80]!r} matches nothing", code="empty-selection", allowed=SYNTAX
        )
    return targets


def _translated(graph: "_Graph", part: str) -> str:
    """Return the expression in names of the graph; ``FerError`` for a name that matches nothing."""
    done, place = [], 0
    while place < len(part):
        token = TOKEN.match(part, place)
        if token is None:
            raise FerError(
                f"the selection {part[:80]!r} is not valid from {part[place:][:20]!r} on",
                code="invalid-selection",
                allowed=SYNTAX,
            )
        place = token.end()
        if token["leaf"]:
            done.append(graph.leaf(token["attribute"], token["value"].strip('"')))
        elif token["name"] and token["name"].lower() not in (*WORDS, "*"):
            done.append(graph.name(token["name"].strip('"')))
        elif token["traversal"] and token["traversal"].startswith("++"):
            # Dagster's older way to count steps.
            steps = token["traversal"].count("+")
            after = bool(done) and done[-1][-1] in ')*"'
            done.append(f"+{steps}" if after else f"{steps}+")
        else:
            done.append(token[0].strip())
        place += len(part[place:]) - len(part[place:].lstrip())
    return " ".join(done)


class _Graph:
    """A graph for Dagster's parser: every partition is an asset; raw folders are included."""

    def __init__(self, pipeline: Lineage) -> None:
        import dagster as dg

        from fer_assets.assets import OWNERS

        self._pipeline = pipeline
        self.nodes = {f"n{number}": target for number, target in enumerate(pipeline.targets())}
        self.raw = {
            f"r{number}": f"raw/{source.name}"
            for number, source in enumerate(pipeline.profile.sources)
        }
        self._names = _names(pipeline)
        key_of = {target: key for key, target in self.nodes.items()}
        raw_of = {name: key for key, name in self.raw.items()}

        def spec(key: str, target: Target) -> dg.AssetSpec:
            stage = pipeline.stage(target.asset)
            deps = [key_of[need] for need in pipeline.needed(target) if need in key_of]
            deps += [raw_of[f"raw/{stage.raw}"]] if stage.raw else []
            return dg.AssetSpec(
                key, deps=deps, group_name=stage.group, kinds=set(stage.kinds), owners=OWNERS
            )

        specs = [spec(key, target) for key, target in self.nodes.items()]
        targets = dg.multi_asset(name="targets", specs=specs)(lambda: None)
        raw = [dg.AssetSpec(key, group_name="raw") for key in self.raw]
        self._graph = dg.Definitions(assets=[targets, *raw]).resolve_asset_graph()

    def meant(self, text: str) -> set[str] | None:
        """Return the nodes that Dagster finds for ``text``, or ``None`` if it cannot be parsed."""
        import dagster as dg

        try:
            with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):
                keys = dg.AssetSelection.from_string(text).resolve(self._graph)
        except dg.DagsterError:
            return None
        return {key.to_user_string() for key in keys}

    def name(self, name: str) -> str:
        """Return a name of this project as an expression of the graph."""
        if "*" in name:
            raise FerError(
                f"the selection {name!r} is ambiguous: names, or everything that depends on a name",
                code="invalid-selection",
                allowed=f"key:{name} for names, NAME+ for what depends on NAME",
            )
        keys = self._keys(lambda target: target in self._names.get(name, ()))
        keys += [key for key, raw in self.raw.items() if name in (raw, "raw")]
        if not keys:
            asset, partition = parse_label(name)
            if ("[" in name) != name.endswith("]") or name.count("[") != name.count("]"):
                raise FerError(
                    f"the selection {name} has an unclosed bracket",
                    code="invalid-selection",
                    allowed="NAME[PARTITION]",
                )
            stage = self._pipeline.stages.get(asset)
            if stage is not None and stage.partitions:
                known = self._pipeline.partitions(stage)
                adopts = "fer adopt FOLDER makes one" if asset.startswith("adopted") else None
                raise FerError(
                    f"{asset} has no partition {partition or 'yet'}",
                    code="unknown-partition",
                    where=f"profile {self._pipeline.profile.name}",
                    allowed=", ".join(known) or None,
                    fix=None if known else adopts or "name one in the profile",
                )
            raise FerError(
                f"unknown asset {name}",
                code="unknown-asset",
                allowed=", ".join(sorted(self._names)),
            )
        return _or(keys)

    def leaf(self, attribute: str, value: str) -> str:
        """Return one ``attribute:value`` as an expression of the graph."""
        if attribute not in ATTRIBUTES:
            raise FerError(
                f"unknown attribute {attribute}: in the selection",
                code="unknown-attribute",
                allowed=", ".join(f"{name}:" for name in ATTRIBUTES),
            )
        if (attribute, value) == ("group", "raw"):
            keys = list(self.raw)
            text = _or(keys)
        elif attribute == "key":
            keys = self._keys(lambda t: _like(t.asset, value) or _like(t.label, value))
            keys += [key for key, raw in self.raw.items() if _like(raw, value)]
            text = _or(keys)
        else:
            text = f'{attribute}:"{value}"'
            keys = list(self.meant(text) or ())
        if not keys:
            stages = [self._pipeline.stage(target.asset) for target in self.nodes.values()]
            known = {
                "key": {*self.raw.values(), *(stage.asset for stage in stages)},
                "group": {"raw", *(stage.group for stage in stages)},
                "kind": {kind for stage in stages for kind in stage.kinds},
            }
            raise FerError(
                f"the selection {attribute}:{value} matches nothing",
                code="empty-selection",
                allowed=", ".join(sorted(known.get(attribute, ()))) or None,
            )
        return text

    def _keys(self, meant: Callable[[Target], bool]) -> list[str]:
        return [key for key, target in self.nodes.items() if meant(target)]


def _or(keys: list[str]) -> str:
    return f"({' or '.join(f'key:{key}' for key in keys)})"


def _like(name: str, pattern: str) -> bool:
    """Whether ``name`` matches ``pattern``, in which ``*`` matches any text."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None
