"""Draw the sample's lineage as docs/pictures/lineage.svg: python docs/lineage.py

It is drawn from the reviewed graph of tests/fer_assets/graph.json, so that it is never another one.
"""

import html
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from fer_ml.claims.graph import layered, untangle

DOCS = Path(__file__).parent
GRAPH = DOCS.parent / "tests" / "fer_assets" / "graph.json"
PICTURE = DOCS / "pictures" / "lineage.svg"
HIGH, LETTER, GAP, DOWN, MARGIN = 26, 7.2, 14, 58, 8
STYLE = """
text { font: 12px ui-monospace, monospace; text-anchor: middle; fill: #1d2320; }
rect { fill: #ffffff; stroke: #14785a; } path { fill: none; stroke: #9aa39e; }
@media (prefers-color-scheme: dark) {
  text { fill: #eef2ef; } rect { fill: #1c2220; stroke: #4fc79a; } path { stroke: #8a948e; }
}
"""


def edges_of(graph: dict[str, dict]) -> list[tuple[str, str]]:
    """From each input to what is made of it, where no other way leads there.

    The sources stand for one another.
    """
    found = {("raw/<source>", "manifest/<source>")}
    for name, held in graph.items():
        for need in held["deps"]:
            pair = tuple(re.sub("^(raw|manifest)/.*", r"\1/<source>", key) for key in (need, name))
            found |= {pair} if pair[0] != pair[1] else set()
    below: dict[str, set[str]] = {}
    for above, name in found:
        below.setdefault(above, set()).add(name)

    def reached(names: set[str]) -> set[str]:
        further = {other for name in names for other in below.get(name, ())}
        return further | reached(further) if further else further

    return sorted(pair for pair in found if pair[1] not in reached(below[pair[0]]))


def drawn(graph: dict[str, dict]) -> str:
    """The SVG: inputs above, in as few crossings as the layouter of traces finds."""
    edges = edges_of(graph)
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
    title = "<title>The lineage: from raw folders to the report</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def _lines(chains: list[list[str]], places: dict, names: set[str]) -> Iterator[str]:
    for above, below in dict.fromkeys(pair for chain in chains for pair in pairwise(chain)):
        (x, y), (to_x, to_y) = places[above], places[below]
        start = f"M{x:.1f} {y + HIGH:.1f}" if above in names else f"M{x:.1f} {y:.1f} v{HIGH}"
        half = (y + HIGH + to_y) / 2
        yield f'<path d="{start} C{x:.1f} {half:.1f} {to_x:.1f} {half:.1f} {to_x:.1f} {to_y:.1f}"/>'


def _box(name: str, x: float, y: float, wide: float) -> str:
    box = f'<rect x="{x - wide / 2:.1f}" y="{y}" width="{wide:.1f}" height="{HIGH}" rx="6"/>'
    return f'{box}<text x="{x:.1f}" y="{y + 17}">{html.escape(name)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(json.loads(GRAPH.read_text("utf-8"))), "utf-8")
