"""Code shared by the commands: the console, common options, and opening a profile's pipeline."""

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fer_ml.base.visible import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fer_assets.pipeline import Pipeline

ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help="Profile to use: sample, ferplus, ferplus_best, paper, or one of your own",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts")]


class Commands(TyperGroup):
    """A command group whose help lists each command with its complete first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands; long sentences wrap onto the next line."""
        rows = [
            (name, command.get_short_help_str(1_000)) for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Printer:
    """Rich's console, imported when something is first printed.

    Text is printed literally: it is not parsed as markup or emoji, and control characters cannot
    steer the terminal. Colours come from ``styled`` only.
    """

    @cached_property
    def _console(self) -> "Console":
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        class Plain(Console):
            def render_str(self, text: str, **options: Any) -> Text:
                return super().render_str(_shown(text), **options)

            def render(self, renderable: Any, options: Any = None) -> Any:
                # What does not fit goes on in the next line: rich would end it with an ellipsis.
                if isinstance(renderable, Table):
                    for column in renderable.columns:
                        column.overflow = "fold"
                return super().render(renderable, options)

        # A pipe has no width of its own; tables in a log file are not squeezed into 80 columns.
        width = None if sys.stdout.isatty() else 140
        return Plain(width=width, markup=False, emoji=False)

    def print(self, *parts: object, **options: Any) -> None:
        """Print like rich's ``Console.print``."""
        self._console.print(*parts, **options)


console = _Printer()
#: Characters of one text that are printed; a cell of a csv may have millions.
LONGEST = 10_000


def _shown(text: str) -> str:
    rest = f"... ({len(text):,} characters)" if len(text) > LONGEST else ""
    return visible(text[:LONGEST]) + rest


def styled(*parts: "str | Text | tuple[str, str]") -> "Text":
    """Join ``parts`` into one text; a pair is a text with the name of a rich style."""
    from rich.text import Text

    text = Text()
    for part in parts:
        if isinstance(part, Text):
            text.append_text(part)
        else:
            words, style = part if isinstance(part, tuple) else (part, None)
            text.append(_shown(words), style)
    return text


def table(*columns: str, title: "str | Text | None" = None, show_header: bool = True) -> "Table":
    """Return an empty table without lines, in the style that all commands share."""
    from rich.table import Table

    return Table(
        *columns,
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        show_header=show_header,
    )


def open_pipeline(profile: str | None) -> "Pipeline":
    """Open the pipeline of a profile; ``None`` means the default profile."""
    from fer_assets.pipeline import Pipeline

    return Pipeline.open(profile)


class _TqdmHandler(logging.Handler):
    """A logging handler that prints lines without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # A fault's own text comes at the end; where it arose stands in the log file.
        tqdm.write(f"      {visible_lines(record.getMessage())}", file=sys.stderr)


def show_progress() -> None:
    """Log to the daily log file and, between progress bars, to the terminal."""
    from fer_ml.base import logs

    logs.start(_TqdmHandler())
