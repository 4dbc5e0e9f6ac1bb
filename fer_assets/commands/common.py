"""What the commands share: the console, their options, the pipeline of a profile."""

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
        "--profile", "-p", help="Recipe to run: sample, ferplus, ferplus_ensemble, paper or own"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts")]


class Commands(TyperGroup):
    """A group of commands whose help says each in its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands; their sentences go on in the next line."""
        rows = [
            (name, command.get_short_help_str(1_000)) for name, command in self.commands.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Printer:
    """rich's console, which is imported when something is printed.

    A text is what it says: nothing in it is markup or an emoji, and none of its characters steers
    the terminal. What has colours is made by ``styled``.
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
        """As rich prints."""
        self._console.print(*parts, **options)


console = _Printer()
#: Characters of one text that are printed; a cell of a csv may have millions.
LONGEST = 10_000


def _shown(text: str) -> str:
    rest = f"... ({len(text):,} characters)" if len(text) > LONGEST else ""
    return visible(text[:LONGEST]) + rest


def styled(*parts: "str | Text | tuple[str, str]") -> "Text":
    """A text of ``parts``, each as it is or with rich's name of a style."""
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
    """A table without lines, in the style of every command."""
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
    """The pipeline of a profile."""
    from fer_assets.pipeline import Pipeline

    return Pipeline.open(profile)


class _TqdmHandler(logging.Handler):
    """Log lines that do not break a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        # A fault's own text comes at the end; where it arose stands in the log file.
        tqdm.write(f"      {visible_lines(record.getMessage())}", file=sys.stderr)


def show_progress() -> None:
    """Log to the file of the day, and to the terminal between the progress bars."""
    from fer_ml.base import logs

    logs.start(_TqdmHandler())
