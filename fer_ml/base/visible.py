"""Escaping of foreign text before it is shown in a terminal, a log, a page or a note.

A foreign label, file name or message may hold characters that move the cursor, delete what was
written, or reverse the direction of a line. They are shown as escape sequences.
"""


def visible(text: str) -> str:
    r"""Return ``text`` on one line, with escapes such as ``\n``, ``\x1b`` and ``\u202e``.

    Escaped is every character that is not printable by ``str.isprintable``: control characters,
    direction marks, zero-width characters, blanks other than the space, lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """Return a text of several lines with each line escaped as by ``visible``."""
    return "\n".join(map(visible, text.split("\n")))
