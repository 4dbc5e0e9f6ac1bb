"""A trace (lineage graph) as JSON, as a Mermaid flowchart, and as one HTML page with a drawing.

The page draws its graph itself: Graphviz is a program of the system, and Mermaid a script of 3 MB
in a page that has to open without a network.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.resolve import Resolver
from fer_ml.claims.resolved import Resolved
from fer_ml.claims.trace import Node, Tracer, find_artifact, walk

#: Sizes in px. A bend is where an edge passes a layer without stopping.
BOX_WIDTH, BOX_HEIGHT, BEND_WIDTH = 188, 46, 26
GAP, LAYER_GAP, MARGIN = 12, 40, 8
SWEEPS = 8


@dataclass(frozen=True)
class Traced:
    """A trace: its topmost steps, and the claim from which it started, if any.

    A step is a node of the trace: an artifact or a raw folder.
    """

    roots: tuple[Node, ...]
    claim: Resolved | None = None

    @property
    def steps(self) -> list[Node]:
        """Each distinct step once, nearest to the start first."""
        return list(walk(self.roots))

    @property
    def state(self) -> str:
        """The claim's status; without a claim the worst state of the steps, or ``sound``."""
        if self.claim is not None:
            return self.claim.status
        states = {node.state for node in self.steps}
        return next((state for state in ("drifted", "stale") if state in states), "sound")

    @property
    def sound(self) -> bool:
        """Whether every step of the trace is current, complete and passed its gates."""
        return self.state in ("grounded", "sound")

    def to_json(self) -> dict[str, Any]:
        """Return the claim and the steps; each step's ``inputs`` names the steps below it."""
        return {
            "claim": self.claim.to_json() if self.claim else None,
            "state": self.state,
            "sound": self.sound,
            "steps": [node.to_json() for node in self.steps],
        }


def trace_what(tracer: Tracer, claims_file: ClaimsFile | None, what: str) -> Traced:
    """Trace a claim by its id, or an artifact by any text that ``find_artifact`` accepts."""
    if claims_file is not None and any(claim.id == what for claim in claims_file.claims):
        resolved = next(
            r for r in Resolver(tracer).all(claims_file.picked(what)) if r.claim.id == what
        )
        return Traced(resolved.traces, resolved)
    return Traced((tracer.trace(find_artifact(tracer.store, what)),))


def mermaid(traced: Traced) -> str:
    """Return the trace as a Mermaid flowchart, top down."""
    names = {node.identity: f"s{number}" for number, node in enumerate(traced.steps)}
    lines = ["flowchart TD"]
    if traced.claim is not None:
        lines.append(f'  claim(["{_quoted(traced.claim.sentence())}"]):::{traced.state}')
        lines += [f"  claim --> {names[root.identity]}" for root in traced.roots]
    for node in traced.steps:
        label = f"{_quoted(node.item.key)}<br>{node.item.sha256[:10]}"
        left, right = ("[(", ")]") if node.item.root else ("[", "]")
        lines.append(f'  {names[node.identity]}{left}"{label}"{right}:::{_shade(node)}')
        lines += [f"  {names[node.identity]} --> {names[n.identity]}" for n in node.inputs]
    for state, colour in (
        ("sound", "#176b2c"),
        ("grounded", "#176b2c"),
        ("drifted", "#b3261e"),
        ("contradicted", "#b3261e"),
        ("not_comparable", "#b3261e"),
        ("stale", "#8a5a00"),
        ("warned", "#b07400"),
        ("ungrounded", "#8a5a00"),
        ("elsewhere", "#777777"),
    ):
        lines.append(f"  classDef {state} stroke:{colour},stroke-width:2px")
    return "\n".join(lines) + "\n"


def page(traced: Traced, title: str, script: str = "", *, local: bool = True) -> str:
    """Return the trace as one offline HTML page: the graph, and a table of all steps.

    ``script`` is the address of the evidence pages' script, which links steps to their assets. With
    ``local=False`` the page neither names nor opens folders of this machine.
    """
    # Here, because verifying and tracing in a terminal need no templates.
    from fer_ml.figures.page import render_page

    drawing = Drawing(traced)
    steps = [
        {"id": f"s{number}", **node.to_json(), "shade": _shade(node), "folder": _address(node)}
        | ({} if local else {"folder": "", "root": None})
        for number, node in enumerate(traced.steps)
    ]
    return render_page(
        Path(__file__).with_name("trace.html.j2"),
        title=title,
        traced=traced,
        drawing=drawing,
        steps=steps,
        box=(BOX_WIDTH, BOX_HEIGHT),
        script=script,
    )


def _shade(node: Node) -> str:
    """Return the state that the drawing shows: ``warned`` for a sound step with a warning gate."""
    return "warned" if node.state == "sound" and node.warns else node.state


def _address(node: Node) -> str:
    """Return the folder of a step as an address that a browser opens, or an empty text."""
    if node.artifact is not None:
        return node.artifact.folder.absolute().as_uri()
    root = Path(node.item.root or "")
    return root.as_uri() if root.is_absolute() else ""


def _quoted(text: str) -> str:
    """Escape text for a Mermaid label: special characters become entities."""
    signs = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;"}
    return "".join(signs.get(sign, sign) for sign in text.replace("\n", " "))


@dataclass(frozen=True)
class Box:
    """A step in the drawing; ``x`` and ``y`` are its upper left corner in px."""

    id: str
    state: str
    raw: bool
    lines: tuple[str, str]
    x: float
    y: float


class Drawing:
    """The trace laid out in layers, each step below everything that was made from it.

    Layers follow the longest path. An edge that crosses a layer gets a bend there, so that it runs
    between the boxes. The order inside a layer is improved by barycentres (Sugiyama, Tagawa, Toda
    1981).
    """

    def __init__(self, traced: Traced) -> None:
        self._nodes = {f"s{number}": node for number, node in enumerate(traced.steps)}
        names = {node.identity: name for name, node in self._nodes.items()}
        self._edges = [
            (name, names[below.identity])
            for name, node in self._nodes.items()
            for below in node.inputs
        ]
        self._layers, self._chains = layered(list(self._nodes), self._edges)
        untangle(self._layers, self._chains)
        self._places = self._placed()

    @cached_property
    def width(self) -> float:
        """The width of the drawing in px."""
        return 2 * MARGIN + max((self._layer_width(layer) for layer in self._layers), default=0)

    @cached_property
    def height(self) -> float:
        """The height of the drawing in px."""
        return 2 * MARGIN + len(self._layers) * (BOX_HEIGHT + LAYER_GAP) - LAYER_GAP

    def boxes(self) -> Iterator[Box]:
        """Yield the box of every step."""
        for name, node in self._nodes.items():
            x, y = self._places[name]
            yield Box(
                name,
                _shade(node),
                node.item.root is not None,
                (_short(node.item.key), node.item.sha256[:10]),
                x - BOX_WIDTH / 2,
                y,
            )

    def edges(self) -> Iterator[str]:
        """Yield every piece of the edges, from one layer to the next, as ``d`` of an SVG path.

        A piece that several edges share comes once.
        """
        for name, other in dict.fromkeys(p for chain in self._chains for p in pairwise(chain)):
            (x, y), (to_x, to_y) = self._places[name], self._places[other]
            start = y + BOX_HEIGHT
            half = (to_y - start) / 2
            through = (
                f"M{x:.1f} {y:.1f} V{start:.1f}"
                if name not in self._nodes
                else (f"M{x:.1f} {start:.1f}")
            )
            yield (
                f"{through} C{x:.1f} {start + half:.1f} {to_x:.1f} {to_y - half:.1f} "
                f"{to_x:.1f} {to_y:.1f}"
            )

    def _layer_width(self, layer: list[str]) -> float:
        return sum(self._width_of(name) for name in layer) + GAP * (len(layer) - 1)

    def _width_of(self, name: str) -> int:
        return BOX_WIDTH if name in self._nodes else BEND_WIDTH

    def _placed(self) -> dict[str, tuple[float, float]]:
        """Return the middle of the upper edge of each box and bend, by name."""
        places: dict[str, tuple[float, float]] = {}
        for number, layer in enumerate(self._layers):
            x = (self.width - self._layer_width(layer)) / 2
            y = MARGIN + number * (BOX_HEIGHT + LAYER_GAP)
            for name in layer:
                places[name] = (x + self._width_of(name) / 2, y)
                x += self._width_of(name) + GAP
        return places


def layered(
    names: list[str], edges: list[tuple[str, str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Return the layers, and for each edge the chain of names and bends that the edge runs through.

    A layer is a list of names and bends. Edges to the same step share their bends.
    """
    below = defaultdict(list)
    for name, other in edges:
        below[name].append(other)
    depth: dict[str, int] = dict.fromkeys(names, 0)
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        for other in below[name]:
            if depth[other] <= depth[name]:
                depth[other] = depth[name] + 1
                waiting.append(other)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    chains = []
    for name, other in edges:
        bends = {n: f"{other}@{n}" for n in range(depth[name] + 1, depth[other])}
        for number, bend in bends.items():
            if bend not in layers[number]:
                layers[number].append(bend)
        chains.append([name, *bends.values(), other])
    return layers, chains


def untangle(layers: list[list[str]], chains: list[list[str]]) -> None:
    """Reorder each layer in place by its neighbours' positions, downwards and upwards in turn."""
    above, below = defaultdict(list), defaultdict(list)
    for name, other in dict.fromkeys(p for chain in chains for p in pairwise(chain)):
        below[name].append(other)
        above[other].append(name)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for number in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            fixed = layers[number - 1 if down else number + 1]
            place = {name: index / max(1, len(fixed) - 1) for index, name in enumerate(fixed)}
            _sort(layers[number], above if down else below, place)


def _sort(layer: list[str], near: Mapping[str, list[str]], place: Mapping[str, float]) -> None:
    positions = {name: index / max(1, len(layer) - 1) for index, name in enumerate(layer)}

    def middle(name: str) -> float:
        around = [place[other] for other in near.get(name, ()) if other in place]
        return sum(around) / len(around) if around else positions[name]

    layer.sort(key=middle)


def _short(text: str) -> str:
    return text if len(text) <= 27 else f"{text[:26]}…"
