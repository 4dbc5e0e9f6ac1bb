"""Read any report as Markdown: .ipynb by its cells, .tex and .docx by pandoc, others as is."""

import re
import subprocess
from pathlib import Path

from fer_ml.base.errors import FerError
from fer_ml.base.reading import parse_json, regular
from fer_ml.report.markdown import MAX_BYTES, read_text

#: How pandoc calls what it reads; it converts without looking at any other file.
PANDOC = {".tex": "latex", ".docx": "docx"}
SECONDS = 60
_MACRO = re.compile(r"\\ferclaim\s*\{([^{}]*)\}")
_VARIABLE = re.compile(r"\{\{<\s*var\s+ferclaim\.(\S+?)\s*>\}\}")


def read_report(path: Path) -> str:
    """Return the report's prose as Markdown; each reference to a claim becomes ``[](ferclaim:ID)``.

    Line numbers match the file only if it is Markdown. Raises ``FerError`` if it cannot be read.
    """
    if path.suffix in PANDOC:
        text = _converted(path)
    elif path.suffix == ".ipynb":
        text = _cells(path)
    else:
        text = read_text(path)
    return _VARIABLE.sub(r"[](ferclaim:\1)", text)


def _cells(path: Path) -> str:
    """Return the Markdown cells of a notebook; outputs of code are not part of the prose."""
    notebook = parse_json(read_text(path), path)
    try:
        sources = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        return "\n\n".join(s if isinstance(s, str) else "".join(s) for s in sources) + "\n"
    except (KeyError, TypeError) as error:
        raise FerError(
            "the notebook has no cells",
            code="invalid-notebook",
            where=path,
            fix="open it in Jupyter and save it again",
        ) from error


def _converted(path: Path) -> str:
    try:
        import pypandoc
    except ModuleNotFoundError as error:
        raise FerError(
            f"pandoc, which reads {path.suffix}, is not installed",
            code="missing-package",
            where=path,
            fix="pip install -e '.[papers]'",
        ) from error
    # Bounded memory, and no file but this one.
    command = [pypandoc.get_pandoc_path(), "+RTS", "-M1G", "-RTS", "--sandbox", "--wrap=none"]
    command += ["-f", PANDOC[path.suffix], "-t", "commonmark_x-smart"]
    try:
        if path.suffix == ".tex":
            text = _MACRO.sub(r"\\href{ferclaim:\1}{}", read_text(path)).encode()
            done = subprocess.run(
                command, input=text, capture_output=True, timeout=SECONDS, check=False
            )
        else:
            named = str(regular(path, limit=MAX_BYTES * 8).resolve())
            done = subprocess.run(
                [*command, named], capture_output=True, timeout=SECONDS, check=False
            )
    except subprocess.TimeoutExpired as error:
        raise FerError(
            f"pandoc needed more than {SECONDS} s to read the file",
            code="conversion-failed",
            where=path,
            fix="convert the file to Markdown by hand",
        ) from error
    except OSError as error:
        raise FerError(
            f"the file cannot be read: {error.strerror}",
            code="unreadable-file",
            where=path,
            fix="correct the path, or make the file readable",
        ) from error
    if done.returncode != 0:
        messages = done.stderr.decode(errors="replace").strip().splitlines()[:3]
        raise FerError(
            f"pandoc cannot read the file: {' '.join(messages)}",
            code="conversion-failed",
            where=path,
            fix="convert the file to Markdown by hand",
        )
    return done.stdout.decode()
