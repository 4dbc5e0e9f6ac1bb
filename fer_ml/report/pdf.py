"""A Markdown report as PDF, set by reportlab: equal text and figures give equal bytes."""

import html
import io
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from markdown_it.token import Token
from reportlab.lib.colors import HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    HRFlowable,
    Image,
    ListFlowable,
    ListItem,
    Paragraph,
    SimpleDocTemplate,
    Table,
    XPreformatted,
)

from fer_ml.report.html import CAPTION, seen, slug, title_of
from fer_ml.report.markdown import parser
from fer_ml.report.marks import MARK, NUMBER

log = logging.getLogger(__name__)

MARGIN = 56.0
WIDTH = A4[0] - 2 * MARGIN
#: Points for a pixel of a plot: they are drawn at 90 dots an inch.
PIXEL = 0.62
INK, SOFT, LINE, SHADE = (HexColor(c) for c in ("#222222", "#666666", "#cccccc", "#f3f3f1"))
#: In front of an address of a file beside the document: reportlab takes one without a scheme for a
#: place in the document.
BESIDE = "beside:"
GOOD, BAD = "#176b2c", "#b3261e"


def pdf_bytes(text: str, pictures: Mapping[str, bytes]) -> bytes:
    """The document; ``pictures`` are the bytes of every image by its path in ``text``."""
    _register_fonts()
    tokens = parser().parse(text)
    _tell_missing_glyphs(text)
    buffer = io.BytesIO()
    document = _Document(buffer, title=title_of(tokens))
    document.build(
        _Setter(tokens, pictures).blocks(),
        onFirstPage=_page_number,
        onLaterPages=_page_number,
        canvasmaker=_Canvas,
    )
    return buffer.getvalue()


class _Canvas(Canvas):  # type: ignore[misc]
    def linkURL(self, url: str, *places: Any, **options: Any) -> None:
        """Link to an address, which may be that of a file beside the document."""
        super().linkURL(url.removeprefix(BESIDE), *places, **options)


class _Document(SimpleDocTemplate):  # type: ignore[misc]
    """A4 with margins and an outline; ``invariant`` leaves out the time of making."""

    def __init__(self, buffer: io.BytesIO, title: str) -> None:
        super().__init__(
            buffer,
            pagesize=A4,
            leftMargin=MARGIN,
            rightMargin=MARGIN,
            topMargin=MARGIN,
            bottomMargin=MARGIN,
            title=title,
            invariant=1,
        )

    def afterFlowable(self, flowable: Flowable) -> None:
        """Put each heading into the outline."""
        if isinstance(flowable, _Heading):
            self.canv.bookmarkPage(flowable.key)
            self.canv.addOutlineEntry(flowable.text, flowable.key, flowable.level)


class _Heading(Paragraph):  # type: ignore[misc]
    def __init__(self, content: str, text: str, level: int, key: str) -> None:
        super().__init__(content, _style(f"h{min(level, 3)}"))
        self.text, self.level, self.key = text, level - 1, key


class _Setter:
    """Walks the tokens of a document and sets each block as a flowable."""

    def __init__(self, tokens: Sequence[Token], pictures: Mapping[str, bytes]) -> None:
        self.tokens = tokens
        self.pictures = pictures
        self.at = 0
        self.level = 0
        self.anchors = _anchors(tokens)

    def blocks(self, end: str | None = None) -> list[Flowable]:
        """Blocks up to the token ``end``, which is passed."""
        made: list[Flowable] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if token.type == end:
                break
            made += self._block(token)
        return made

    def _block(self, token: Token) -> list[Flowable]:
        match token.type:
            case "heading_open":
                return self._heading(token)
            case "paragraph_open":
                return self._paragraph()
            case "bullet_list_open" | "ordered_list_open":
                return [self._list(token)]
            case "table_open":
                return [self._table()]
            case "fence" | "code_block":
                return [XPreformatted(html.escape(token.content.rstrip("\n")), _style("pre"))]
            case "blockquote_open":
                return [Table([[self.blocks("blockquote_close")]], colWidths=[WIDTH], style=_QUOTE)]
            case "hr":
                return [HRFlowable(width="100%", color=LINE, spaceBefore=8, spaceAfter=8)]
        return []

    def _inline(self) -> Token:
        token = self.tokens[self.at]
        self.at += 2  # The inline token and the one that closes its block.
        return token

    def _heading(self, token: Token) -> list[Flowable]:
        inline = self._inline()
        # An outline must not skip a level on its way down.
        self.level = min(int(token.tag[1:]), self.level + 1)
        text = "".join(child.content for child in inline.children or ())
        heading = _Heading(self._markup(inline), text, self.level, slug(seen(inline)))
        return [CondPageBreak(80), heading]

    def _paragraph(self) -> list[Flowable]:
        inline = self._inline()
        children = inline.children or []
        if len(children) == 1 and children[0].type == "image":
            return [CondPageBreak(260), self._picture(str(children[0].attrGet("src")))]
        caption = CAPTION.match(inline.content)
        style = _style("caption" if caption else "body")
        made = [Paragraph(self._markup(inline), style)]
        return [CondPageBreak(90), *made] if caption and caption[1] == "Table" else made

    def _picture(self, name: str) -> Flowable:
        if name not in self.pictures:
            return Paragraph(html.escape(name), _style("body"))
        width, height = ImageReader(io.BytesIO(self.pictures[name])).getSize()
        scale = min(PIXEL, WIDTH / width)
        made = Image(io.BytesIO(self.pictures[name]), width * scale, height * scale)
        made.hAlign = "LEFT"
        return made

    def _list(self, token: Token) -> Flowable:
        close = token.type.replace("_open", "_close")
        items = []
        while (item := self.tokens[self.at]).type != close:
            self.at += 1
            assert item.type == "list_item_open"
            items.append(ListItem(self.blocks("list_item_close"), leftIndent=14))
        self.at += 1
        kind: dict[str, Any] = {"bulletType": "bullet", "start": "•"}
        if token.type.startswith("ordered"):
            start = int(token.attrGet("start") or 1)
            kind = {"bulletType": "1", "start": start, "bulletFormat": "%s."}
        return ListFlowable(items, leftIndent=14, bulletFontName="Report", bulletFontSize=9, **kind)

    def _table(self) -> Flowable:
        rows: list[list[Flowable]] = []
        lengths: list[list[int]] = []
        while (token := self.tokens[self.at]).type != "table_close":
            self.at += 1
            if token.type == "tr_open":
                rows.append([])
                lengths.append([])
            elif token.type in ("th_open", "td_open"):
                inline = self.tokens[self.at]
                right = "right" in str(token.attrGet("style") or "")
                name = ("head" if token.type == "th_open" else "cell") + ("_right" * right)
                rows[-1].append(Paragraph(self._markup(inline), _style(name)))
                lengths[-1].append(sum(len(child.content) for child in inline.children or ()))
        self.at += 1
        made = Table(rows, colWidths=_widths(lengths), style=_RULES, repeatRows=1, hAlign="LEFT")
        made.spaceAfter = 10
        return made

    def _markup(self, inline: Token) -> str:
        """Inline tokens as reportlab's own mark-up."""
        parts: list[str] = []
        closing: list[str] = []
        children = inline.children or []
        for index, child in enumerate(children):
            if child.type == "link_open":
                opened, closed = self._link(str(child.attrGet("href")), children[index + 1].content)
                parts.append(opened)
                closing.append(closed)
            elif child.type == "link_close":
                parts.append(closing.pop())
            else:
                parts.append(_SIMPLE.get(child.type, "") or _words(child))
        return "".join(parts)

    def _link(self, target: str, text: str) -> tuple[str, str]:
        place = MARK.fullmatch(target)
        if place:
            colour = BAD if "✗" in text else GOOD
            address = html.escape(BESIDE + target)
            return f'<a href="{address}" color="{colour}"><font size="-2">', "</font></a>"
        if NUMBER.fullmatch(target):
            return f'<a href="{html.escape(BESIDE + target)}" color="{INK.hexval()}">', "</a>"
        known = target[1:] in self.anchors if target.startswith("#") else "://" in target
        if not known:
            return "", ""  # Nothing in this document, and no address of its own.
        address = html.escape(target)
        return f'<a href="{address}" color="{INK.hexval()}"><u>', "</u></a>"


def _words(child: Token) -> str:
    words = html.escape(child.content)
    if child.type != "code_inline":
        return words
    return f'<font name="Mono" size="-1" backColor="{SHADE.hexval()}">{words}</font>'


def _anchors(tokens: Sequence[Token]) -> frozenset[str]:
    """What a link of the document may lead to: its headings."""
    return frozenset(
        slug(seen(inline)) for token, inline in pairwise(tokens) if token.type == "heading_open"
    )


def _widths(lengths: Sequence[Sequence[int]]) -> list[float]:
    """Column widths in points: as the longest cells ask for, narrowed where they do not fit."""
    longest = [max(column) for column in zip(*lengths, strict=True)]
    wanted = [12 + 5.6 * max(count, 3) for count in longest]
    if sum(wanted) <= WIDTH:
        return wanted
    # Short columns keep their width; the long ones share what is left.
    fair = WIDTH / len(wanted)
    kept = sum(width for width in wanted if width <= fair)
    long = sum(width for width in wanted if width > fair)
    return [w if w <= fair else w / long * (WIDTH - kept) for w in wanted]


_SIMPLE = {
    "softbreak": " ",
    "hardbreak": "<br/>",
    "strong_open": "<b>",
    "strong_close": "</b>",
    "em_open": "<i>",
    "em_close": "</i>",
}
_RULES = [
    ("VALIGN", (0, 0), (-1, -1), "TOP"),
    ("LINEBELOW", (0, 0), (-1, -1), 0.4, LINE),
    ("LINEBELOW", (0, 0), (-1, 0), 0.6, SOFT),
    ("LEFTPADDING", (0, 0), (-1, -1), 0),
    ("RIGHTPADDING", (0, 0), (-1, -1), 8),
    ("TOPPADDING", (0, 0), (-1, -1), 2),
    ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
]
_QUOTE = [("LINEBEFORE", (0, 0), (0, -1), 2, LINE), ("LEFTPADDING", (0, 0), (-1, -1), 10)]


@cache
def _style(name: str) -> ParagraphStyle:
    body = ParagraphStyle(
        "body",
        fontName="Report",
        fontSize=9.5,
        leading=13.5,
        textColor=INK,
        spaceAfter=6,
        splitLongWords=1,
    )
    cell = ParagraphStyle("cell", body, fontSize=7.8, leading=10.5, spaceAfter=0)
    styles = {
        "body": body,
        "h1": ParagraphStyle(
            "h1", body, fontName="Report-Bold", fontSize=18, leading=23, spaceAfter=8
        ),
        "h2": ParagraphStyle(
            "h2", body, fontName="Report-Bold", fontSize=13, leading=17, spaceBefore=12
        ),
        "h3": ParagraphStyle(
            "h3", body, fontName="Report-Bold", fontSize=10.5, leading=14, spaceBefore=8
        ),
        "caption": ParagraphStyle(
            "caption", body, fontSize=8.5, leading=11.5, textColor=SOFT, spaceBefore=8
        ),
        "pre": ParagraphStyle(
            "pre", body, fontName="Mono", fontSize=8, leading=10.5, backColor=SHADE, borderPadding=4
        ),
        "cell": cell,
        "head": ParagraphStyle("head", cell, fontName="Report-Bold"),
        "cell_right": ParagraphStyle("cell_right", cell, alignment=TA_RIGHT),
        "head_right": ParagraphStyle(
            "head_right", cell, fontName="Report-Bold", alignment=TA_RIGHT
        ),
    }
    return styles[name]


def _font_file(name: str) -> Path:
    # matplotlib brings DejaVu along: the same glyphs on every machine, and no font to ship.
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


@cache
def _register_fonts() -> None:
    faces = {"": "", "-Bold": "-Bold", "-Italic": "-Oblique", "-BoldItalic": "-BoldOblique"}
    for face, file in faces.items():
        pdfmetrics.registerFont(TTFont(f"Report{face}", _font_file(f"DejaVuSans{file}")))
        pdfmetrics.registerFont(TTFont(f"Mono{face}", _font_file(f"DejaVuSansMono{file}")))
    for family in ("Report", "Mono"):
        pdfmetrics.registerFontFamily(
            family,
            normal=family,
            bold=f"{family}-Bold",
            italic=f"{family}-Italic",
            boldItalic=f"{family}-BoldItalic",
        )


def _tell_missing_glyphs(text: str) -> None:
    known = pdfmetrics.getFont("Report").face.charToGlyph
    missing = sorted(
        {letter for letter in text if letter.isprintable() and ord(letter) not in known}
    )
    if missing:
        log.warning("report.pdf has no glyphs for %s; report.html does", " ".join(missing[:20]))


def _page_number(canvas: Any, document: Any) -> None:
    canvas.saveState()
    canvas.setFont("Report", 8)
    canvas.setFillColor(SOFT)
    canvas.drawRightString(A4[0] - MARGIN, MARGIN / 2, str(document.page))
    canvas.restoreState()
