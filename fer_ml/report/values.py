"""Export claims' values for papers: LaTeX macros, a variable file for Quarto and notebooks, csv.

Texts written by people (labels of rows, sentences) are escaped, so none acts as a command.
"""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from fer_ml.base.errors import FerError
from fer_ml.base.files import write_atomic
from fer_ml.base.names import require_new
from fer_ml.base.visible import visible
from fer_ml.claims.printed import PRINTED
from fer_ml.claims.verify import Verified
from fer_ml.report.markdown import escape

#: What LaTeX would take for a command, or print as another character.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",
}
_MACROS = r"""% The values of the claims below, written by 'fer claims values'.
% \input this file; \ferclaim{ID} prints a value, and links it to its page where hyperref is loaded.
\providecommand\ferclaimpages{evidence/claims/}
\makeatletter
\DeclareRobustCommand\ferclaim[1]{\ifcsname ferclaim@#1\endcsname
  \ifdefined\href\href{\ferclaimpages#1.html}{\csname ferclaim@#1\endcsname}%
  \else\csname ferclaim@#1\endcsname\fi
  \else\PackageError{ferclaim}{There is no claim '#1'}{See the ids in this file.}\fi}
"""


def latex(verified: Verified) -> str:
    r"""Return LaTeX macros for all claims: ``\ferclaim{id}``."""
    lines = [
        f"\\@namedef{{ferclaim@{claim.claim.id}}}{{{escape_latex(claim.shown())}}}"
        for claim in verified.claims
    ]
    return _MACROS + "\n".join([*lines, r"\makeatother", ""])


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX prints it as it is."""
    if re.fullmatch(PRINTED, text) and text.startswith("-"):
        return r"\ensuremath{-}" + escape_latex(text[1:])
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))


def variables(verified: Verified) -> str:
    """Return ``_variables.yml``: a dict ``ferclaim``, ``{{< var ferclaim.id >}}`` in Quarto."""
    # Quarto reads a value as Markdown.
    texts = {claim.claim.id: str(escape(claim.shown())) for claim in verified.claims}
    return yaml.safe_dump({"ferclaim": texts}, sort_keys=False, allow_unicode=True)


def table(verified: Verified) -> str:
    """Return the claims as a csv, one row per claim."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "value", "sentence", "asset", "file", "place", "sha256"))
    for claim in verified.claims:
        cited = claim.to_json()["artifact"]
        asset = f"{cited['asset']}[{cited['partition']}]" if cited["partition"] else cited["asset"]
        cells = (claim.claim.id, claim.shown(), claim.sentence(), asset, cited["file"])
        row = (*cells, cited["pointer"], cited["sha256"] or "")
        writer.writerow(map(_cell, row))
    return text.getvalue()


def _cell(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    acts = text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(PRINTED, text)
    return f"'{text}" if acts else text


WRITERS: dict[str, Callable[[Verified], str]] = {
    ".tex": latex,
    ".yml": variables,
    ".csv": table,
}


def write_values(verified: Verified, out: Path) -> None:
    """Write the claims' values in the format of ``out``'s suffix, replacing an earlier file.

    Raises ``FerError`` when a claim is not grounded.
    """
    if out.suffix not in WRITERS:
        raise FerError(
            f"unknown suffix {out.suffix!r}",
            code="unknown-suffix",
            where=out,
            allowed=", ".join(WRITERS),
        )
    verified.require_grounded()
    write_atomic(require_new(out), WRITERS[out.suffix](verified).encode())
