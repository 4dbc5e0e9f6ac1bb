"""A Markdown report as PDF, typeset by Typst: equal text and figures give equal bytes.

The document is a tree of nodes that ``report.typ`` typesets. Its texts are data there, not mark-up,
so nothing that a report quotes is executed as a Typst command.
"""

import io
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import typst
from markdown_it.tree import SyntaxTreeNode
from matplotlib.ft2font import FT2Font
from PIL import Image

from fer_ml.base.errors import FerError
from fer_ml.report.html import CAPTION, slug, title_of
from fer_ml.report.markdown import parser
from fer_ml.report.marks import MARK, NUMBER

log = logging.getLogger(__name__)

Node = dict[str, Any]
#: Of addresses that are links, and the longest one that Typst takes.
SCHEMES, LONGEST = ("https://", "http://", "mailto:"), 8_000
#: matplotlib brings DejaVu along: the same glyphs on every machine, and no font to ship.
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_KINDS = {
    "blockquote": "quote",
    "bullet_list": "bullets",
    "code_block": "code",
    "code_inline": "code",
    "fence": "code",
    "hr": "rule",
    "ordered_list": "numbers",
}


def pdf_bytes(text: str, pictures: Mapping[str, bytes]) -> bytes:
    """Return the PDF; ``pictures`` holds the bytes of every image by its path in ``text``."""
    tokens = parser().parse(text)
    blocks = _Blocks(pictures).of(SyntaxTreeNode(tokens))
    _warn_of_missing_glyphs(text)
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, file in _files(pictures).items():
            (folder / file).write_bytes(pictures[path])
        tree = {"title": title_of(tokens), "blocks": blocks}
        (folder / "document.json").write_text(json.dumps(tree), "utf-8")
        main = Path(shutil.copy(Path(__file__).with_name("report.typ"), folder))
        try:
            return typst.compile(
                main, root=folder, font_paths=[FONTS], ignore_system_fonts=True, timestamp=0
            )
        except typst.TypstError as error:
            raise FerError(
                f"the report cannot be set as PDF: {error.message}",
                code="pdf-failed",
                fix="correct what the message names in the report's template",
            ) from error


def _files(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Return a file name of its own for each picture, by its path in the text."""
    return {name: f"{number}{Path(name).suffix}" for number, name in enumerate(pictures)}


class _Blocks:
    """Converts parsed Markdown into the nodes of ``report.typ``."""

    def __init__(self, pictures: Mapping[str, bytes]) -> None:
        self.pictures = pictures
        self.files = _files(pictures)
        self.level = 0
        self.anchors: frozenset[str] = frozenset()
        self.placed: set[str] = set()

    def of(self, root: SyntaxTreeNode) -> list[Node]:
        """Return the blocks of a document."""
        headings = (node for node in root.walk() if node.type == "heading")
        self.anchors = frozenset(slug(_seen(node)) for node in headings)
        return [self._block(node) for node in root.children]

    def _block(self, node: SyntaxTreeNode) -> Node:
        kind, children = _KINDS.get(node.type, node.type), node.children
        made: Node = {"type": kind, "inline": [], "children": []}
        match kind:
            case "heading":
                made |= self._heading(node)
            case "paragraph":
                made |= self._paragraph(node)
            case "table":
                made |= self._table(node)
            case "code":
                made["content"] = node.content.rstrip("\n")
            case _:
                made["children"] = [self._block(child) for child in children]
        if kind == "numbers":
            made["start"] = int(node.attrGet("start") or 1)
        return made

    def _heading(self, node: SyntaxTreeNode) -> Node:
        # An outline must not skip a level on its way down.
        self.level = min(int(node.tag[1:]), self.level + 1)
        anchor = slug(_seen(node))
        first = anchor not in self.placed
        self.placed.add(anchor)
        return {
            "level": self.level,
            "anchor": anchor if first and anchor else None,
            "inline": self._words(node),
        }

    def _paragraph(self, node: SyntaxTreeNode) -> Node:
        (inline,) = node.children
        name = str(inline.children[0].attrGet("src")) if inline.children else ""
        if name in self.files and len(inline.children) == 1:
            with Image.open(io.BytesIO(self.pictures[name])) as picture:
                pixels = picture.width
            alt = inline.children[0].content
            return {"type": "picture", "file": f"/{self.files[name]}", "pixels": pixels, "alt": alt}
        caption = CAPTION.match(inline.content)
        kind: Node = {"type": "caption", "above": caption[1] == "Table"} if caption else {}
        return {**kind, "inline": self._words(node)}

    def _table(self, node: SyntaxTreeNode) -> Node:
        head, *body = [row for part in node.children for row in part.children]
        sides = [
            "right" if "right" in str(cell.attrGet("style")) else "left" for cell in head.children
        ]
        cells = [self._words(cell) for row in body for cell in row.children]
        return {
            "columns": sides,
            "head": [self._words(cell) for cell in head.children],
            "cells": cells,
        }

    def _words(self, node: SyntaxTreeNode) -> list[Node]:
        return [self._inline(child) for inline in node.children for child in inline.children]

    def _inline(self, node: SyntaxTreeNode) -> Node:
        children = [self._inline(child) for child in node.children]
        made: Node = {"type": _KINDS.get(node.type, node.type), "children": children}
        if node.type == "link":
            made |= self._link(str(node.attrGet("href")), _seen(node))
        elif node.type == "image":
            made = {"type": "text", "children": [], "content": str(node.attrGet("src"))}
        elif not children:
            made["content"] = node.content
        return made

    def _link(self, target: str, text: str) -> Node:
        if MARK.fullmatch(target):
            return {"type": "mark", "target": target, "verdict": "bad" if "✗" in text else "good"}
        if NUMBER.fullmatch(target):
            return {"type": "number", "target": target}
        if target.startswith("#") and target[1:] in self.anchors:
            return {"type": "place", "target": target[1:]}
        # Anything else leads nowhere from this document, unless it is an address of its own.
        known = target.startswith(SCHEMES) and len(target) <= LONGEST
        return {"type": "address", "target": target} if known else {"type": "plain"}


def _seen(node: SyntaxTreeNode) -> str:
    """Return the text of a line that a reader sees, without addresses of links."""
    leaves: Sequence[SyntaxTreeNode] = [child for child in node.walk() if not child.children]
    return "".join(child.content for child in leaves)


def _warn_of_missing_glyphs(text: str) -> None:
    known = FT2Font(str(FONTS / "DejaVuSans.ttf")).get_charmap()
    missing = sorted(
        {letter for letter in text if letter.isprintable() and ord(letter) not in known}
    )
    if missing:
        log.warning("report.pdf has no glyphs for %s; report.html does", " ".join(missing[:20]))
