"""Draw docs/pictures/lineage.svg and rooms.svg: python docs/pictures.py

The lineage is that of the reviewed graph in tests/fer_assets/graph.json, and the rooms are joined
by the imports of the code.
"""

import html
import json
import re
import runpy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from fer_ml.claims.graph import layered, untangle

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
HIGH, LETTER, GAP, DOWN, MARGIN = 26, 7.2, 14, 58, 8
STYLE = """
text { font: 12px ui-monospace, monospace; text-anchor: middle; fill: #1d2320; }
rect { fill: #ffffff; stroke: #14785a; } path { fill: none; stroke: #9aa39e; }
@media (prefers-color-scheme: dark) {
  text { fill: #eef2ef; } rect { fill: #1c2220; stroke: #4fc79a; } path { stroke: #8a948e; }
}
"""


Edges = set[tuple[str, str]]


def lineage() -> Edges:
    """From each input to what is made of it. The sources stand for one another."""
    graph = json.loads((TESTS / "fer_assets" / "graph.json").read_text("utf-8"))
    found = {("raw/<source>", "manifest/<source>")}
    for name, held in graph.items():
        for need in held["deps"]:
            pair = tuple(re.sub("^(raw|manifest)/.*", r"\1/<source>", key) for key in (need, name))
            found |= {pair} if pair[0] != pair[1] else set()
    return found


def rooms() -> Edges:
    """From each room to those that import it."""
    structure = runpy.run_path(str(TESTS / "test_structure.py"))
    return {(there, here or "base") for here, there in structure["arrows"]()}


def shown(edges: Edges) -> list[tuple[str, str]]:
    """The edges, without those where another way leads there."""
    below: dict[str, set[str]] = {}
    for above, name in edges:
        below.setdefault(above, set()).add(name)

    def reached(names: set[str]) -> set[str]:
        further = {other for name in names for other in below.get(name, ())}
        return further | reached(further) if further else further

    return sorted(pair for pair in edges if pair[1] not in reached(below[pair[0]]))


def drawn(edges: list[tuple[str, str]], title: str) -> str:
    """The SVG: inputs above, in as few crossings as the layouter of traces finds."""
    names = sorted({name for edge in edges for name in edge})
    layers, chains = layered(names, edges)
    untangle(layers, chains)
    wide = {
        name: LETTER * len(name) + 16 if name in names else 10 for row in layers for name in row
    }
    widths = [sum(wide[name] for name in row) + GAP * (len(row) - 1) for row in layers]
    places = {}
    for number, row in enumerate(layers):
        x = MARGIN + (max(widths) - widths[number]) / 2
        for name in row:
            places[name] = (x + wide[name] / 2, MARGIN + number * DOWN)
            x += wide[name] + GAP
    size = f"{max(widths) + 2 * MARGIN:.0f} {(len(layers) - 1) * DOWN + HIGH + 2 * MARGIN}"
    parts = [*_lines(chains, places, set(names)), *(_box(n, *places[n], wide[n]) for n in names)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">'
    return "\n".join(
        [head, f"<title>{title}</title>", f"<style>{STYLE}</style>", *parts, "</svg>\n"]
    )


def _lines(chains: list[list[str]], places: dict, names: set[str]) -> Iterator[str]:
    for above, below in dict.fromkeys(pair for chain in chains for pair in pairwise(chain)):
        (x, y), (to_x, to_y) = places[above], places[below]
        start = f"M{x:.1f} {y + HIGH:.1f}" if above in names else f"M{x:.1f} {y:.1f} v{HIGH}"
        half = (y + HIGH + to_y) / 2
        yield f'<path d="{start} C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"/>'


def _box(name: str, x: float, y: float, wide: float) -> str:
    box = f'<rect x="{x - wide / 2:.1f}" y="{y}" width="{wide:.1f}" height="{HIGH}" rx="6"/>'
    return f'{box}<text x="{x:.1f}" y="{y + 17}">{html.escape(name)}</text>'


PICTURES = {
    "lineage.svg": (lineage, "The lineage: from raw folders to the report"),
    "rooms.svg": (rooms, "The rooms of the code: each imports only what stands above it"),
}

if __name__ == "__main__":
    for name, (edges, title) in PICTURES.items():
        (DOCS / "pictures" / name).write_text(drawn(shown(edges()), title), "utf-8")
