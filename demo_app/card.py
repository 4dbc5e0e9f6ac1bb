"""The model card of a student as an HTML page, with the content of ``fer card``."""

import html

from fer_ml.base.visible import visible_lines
from fer_ml.bundles.bundle import Bundle
from fer_ml.bundles.model_card import as_markdown
from fer_ml.bundles.provenance import CHAIN_FILE, verify_chain

_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{title}</title>
  <link rel="icon" href="data:,">
  <link rel="stylesheet" href="/static/demo.css">
</head>
<body>
  <main class="card">
    <p><a href="/">Back to the camera</a></p>
{body}
  </main>
</body>
</html>
"""


def card_page(bundle: Bundle) -> str:
    """Return the card as HTML; ``FerError`` if the provenance beside the bundle is invalid."""
    from markdown_it import MarkdownIt

    chain = verify_chain(bundle) if (bundle.folder / CHAIN_FILE).is_file() else None
    text = visible_lines(as_markdown(bundle.card, chain))
    # What a card says is text: mark-up in it is shown and not carried out.
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token in tokens:
        # The page's policy allows no style in an element; columns of numbers are the aligned ones.
        if token.attrs.pop("style", None) is not None:
            token.attrs["class"] = "number"
    body = reader.renderer.render(tokens, reader.options, {})
    return _PAGE.format(title=html.escape(bundle.card.name), body=body)
