"""Text from elsewhere as a person may see it: in a terminal, a log, a page or a note.

A label, a file name or a sentence of somebody else's may hold characters that move the cursor,
delete what was written, or turn the direction of a line. They are shown as what they are.
"""


def visible(text: str) -> str:
    r"""``text`` on one line: what is not printed as itself becomes ``\n``, ``\x1b``, ``\u202e``.

    That is what ``str.isprintable`` refuses: control characters, marks of direction, characters
    without width, blanks other than the usual one, halves of a surrogate pair.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return "\n".join(map(visible, text.split("\n")))
