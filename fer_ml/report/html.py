"""A Markdown report as one HTML file: figures embedded, no scripts, no network access."""

import base64
import html
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown_it.token import Token
from markupsafe import Markup

from fer_ml.figures.page import render_page
from fer_ml.report.markdown import parser
from fer_ml.report.marks import MARK, NUMBER, with_cards

#: A caption as ``references`` writes it.
CAPTION = re.compile(r"\*(Table|Figure) \d+\. ")
_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}


def html_page(
    text: str, pictures: Mapping[str, bytes], cards: Mapping[str, Markup] | None = None
) -> str:
    """Return the HTML page; ``pictures`` holds the bytes of every image by its path in ``text``.

    ``cards`` holds the HTML shown at the mark of each claim, by the claim's id.
    """
    markdown = parser()
    markdown.add_render_rule("table_open", _open_table)
    markdown.add_render_rule("table_close", _close_table)
    markdown.add_render_rule("code_inline", _code)
    tokens = markdown.parse(text)
    for token, after in itertools.pairwise(tokens):
        _mark_block(token, after)
        _mark_inline(after.children or [], pictures)
        if after.children:
            after.children = with_cards(after.children, cards or {})
    _link_cells(tokens)
    return render_page(
        Path(__file__).with_name("page.html.j2"),
        title=title_of(tokens),
        body=markdown.renderer.render(tokens, markdown.options, {}),
    )


def title_of(tokens: list[Token]) -> str:
    """Return the text of the first heading."""
    for token, after in itertools.pairwise(tokens):
        if token.type == "heading_open":
            return "".join(child.content for child in after.children or ())
    return "Report"


def seen(inline: Token) -> str:
    """Return the text of a line that a reader sees, without addresses of links."""
    return "".join(child.content for child in inline.children or [])


def slug(text: str) -> str:
    """Return the anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def _mark_block(token: Token, after: Token) -> None:
    if token.type == "heading_open":
        token.attrSet("id", slug(seen(after)))
    elif token.type == "paragraph_open" and CAPTION.match(after.content):
        token.attrSet("class", "caption")
    elif token.type == "td_open" and after.content[:1] in "✓✗":
        token.attrSet("class", "good" if after.content[:1] == "✓" else "bad")


def _mark_inline(children: list[Token], pictures: Mapping[str, bytes]) -> None:
    for child in children:
        name = str(child.attrGet("src"))
        if child.type == "image" and name in pictures:
            data = base64.b64encode(pictures[name]).decode()
            child.attrSet("src", f"data:{_TYPES[Path(name).suffix]};base64,{data}")
    for child, after in itertools.pairwise(children):
        if MARK.fullmatch(str(child.attrGet("href"))):
            child.attrSet("class", "mark bad" if "✗" in after.content else "mark")
        elif NUMBER.fullmatch(str(child.attrGet("href"))):
            child.attrSet("class", "number")


def _link_cells(tokens: list[Token]) -> None:
    """Link each number of a table to the address of its row's name, or else of its column."""
    names: dict[int, str] = {}
    row, place = "", 0
    for token, inline in itertools.pairwise(tokens):
        if token.type == "tr_open":
            row, place = "", 0
        elif token.type in ("th_open", "td_open"):
            children = inline.children or []
            link = next((str(c.attrGet("href")) for c in children if c.type == "link_open"), "")
            # Only a name leads its row or column: a number leads to its own page alone.
            named = any(c.type == "code_inline" for c in children) or inline.content[:3] == "[n]"
            if token.type == "th_open":
                names[place] = link if named else ""
            elif place == 0:
                row = link if named else ""
            elif not link and NUMBER.fullmatch(target := row or names.get(place, "")):
                # Not one more stop of the keyboard: the name leads to the same page.
                attributes: dict[str, str | int | float] = {"href": target, "class": "number"}
                opened = Token("link_open", "a", 1, attrs=attributes | {"tabindex": "-1"})
                inline.children = [opened, *children, Token("link_close", "a", -1)]
            place += 1


def _open_table(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return '<div class="table" tabindex="0"><table>\n'


def _close_table(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


def _code(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    # Paths may break at their slashes; elsewhere a column would be squeezed to single letters.
    return f"<code>{html.escape(tokens[index].content).replace('/', '/<wbr>')}</code>"
