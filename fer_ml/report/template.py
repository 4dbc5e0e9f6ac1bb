"""The template of a report: a file of the user's, or the built-in one.

Templates come from users and may be faulty or untrusted. They run in jinja2's sandbox, can use only
the helpers of ``fer_ml.report.references``, and can print only numbers from these helpers.
"""

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from fer_ml.base.errors import FerError
from fer_ml.claims.sentences import as_seen
from fer_ml.report.literals import without_numbers
from fer_ml.report.markdown import Markdown, read_text

BUILT_IN = Path(__file__).parent
#: What a template takes in by a line of its own: {% include 'NAME' %}.
PARTS = BUILT_IN / "parts"
_INCLUDE = re.compile(r"\s*\{%[-+]?\s*include\s+(['\"])([^'\"]*)\1\s*-?%\}\s*")
#: Helpers whose first argument is an asset: these are what the report rests on.
CITING = ("value", "table", "figure", "gate", "known")
#: jinja2's filters that neither make numbers nor declare a text as safe.
FILTERS = ("first", "last", "length", "list", "lower", "reject", "select", "sort", "upper")
#: What would make a new text of what a helper gave: a part of it, or more than it. A text that is
#: printed is a helper's whole answer, or one whose numbers are looked at.
COMPUTING = (nodes.BinExpr, nodes.UnaryExpr, nodes.Concat, nodes.Getitem, nodes.Slice)
LOGIC = (nodes.And, nodes.Or, nodes.Not)
#: Stands on both sides of what a helper gave, until it is seen what that touches.
_EDGE = "\ue003"
#: A number is a link, of which its reader sees the text.
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")
_JOINED = re.compile(rf"\d[%\u2030]?{_EDGE}+[-+.,]?{_EDGE}*\d|\d[-+.,]?{_EDGE}+\d")


@dataclass(frozen=True)
class Template:
    """A template's text with its included parts, and the origin of each line."""

    path: Path
    source: str
    places: tuple[str, ...] = ()

    def place(self, line: int | None) -> str:
        """Return the origin ``file:line`` of a line of ``source``."""
        return self.places[line - 1] if line and self.places else f"{self.path}:{line}"


def template_path(project: Path, profile: str) -> Path:
    """Return the path of ``report/<profile>.md.j2`` in the project, else of a built-in template."""
    name = f"{profile}.md.j2"
    candidates = (project / "report" / name, BUILT_IN / name, BUILT_IN / "report.md.j2")
    return next(path for path in candidates if path.is_file())


def read_template(path: Path) -> Template:
    """Read a template (as ``read_text`` does) and the parts that it includes."""
    lines: list[str] = []
    places: list[str] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        place = f"{path}:{number}"
        if (include := _INCLUDE.fullmatch(line)) is None:
            lines.append(line)
            places.append(place)
            continue
        known = sorted(part.name for part in PARTS.iterdir())
        if include[2] not in known:
            raise FerError(
                f"unknown part {include[2]!r}",
                code="unknown-part",
                where=place,
                allowed=", ".join(known),
            )
        part = read_text(PARTS / include[2]).removesuffix("\n").split("\n")
        lines += part
        places += [f"{PARTS / include[2]}:{at}" for at in range(1, len(part) + 1)]
    return Template(path, "\n".join(lines), tuple(places))


def cited_assets(template: Template) -> frozenset[str]:
    """Return every ``asset`` or ``asset[partition]`` that a template refers to."""
    assets = set()
    for call in _parse(template).find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name not in CITING:
            continue
        asset = call.args[0] if call.args else None
        if not isinstance(asset, nodes.Const) or not isinstance(asset.value, str):
            raise FerError(
                f"the asset of {call.node.name}() is not a text in quotes",
                code="asset-not-literal",
                where=template.place(call.lineno),
                fix="write the asset in quotes: the inputs of a report are known before it runs",
            )
        assets.add(asset.value)
    return frozenset(assets)


def render(template: Template, helpers: Mapping[str, Any]) -> str:
    """Return the report as Markdown; ``FerError`` names the template's line at fault."""
    _parse(template)
    try:
        text = environment(helpers).from_string(template.source).render()
        if joined := _JOINED.search(as_seen(_LINK.sub(r"\1", text))[0]):
            raise FerError(
                "two numbers are printed without a space between them: "
                f"{joined.group().replace(_EDGE, '')!r}",
                code="joined-numbers",
                where=template.path,
                fix="put a space or a word between them, in loops too",
            )
        return text.replace(_EDGE, "")
    except FerError as error:
        raise FerError(
            error.what,
            code=error.code,
            where=_line(template, error),
            allowed=error.allowed,
            fix=error.fix,
        ) from error
    except jinja2.TemplateSyntaxError as error:
        raise _syntax(template, error) from error
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise FerError(
            f"the template fails: {type(error).__name__}: {error}",
            code="template-failed",
            where=_line(template, error),
        ) from error


def environment(helpers: Mapping[str, Any]) -> ImmutableSandboxedEnvironment:
    """Return a jinja2 environment with strict names, a sandbox, and escaping for Markdown."""
    made = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=True,
        finalize=_finalize,
    )
    made.globals = dict(helpers)
    made.filters = {name: made.filters[name] for name in FILTERS}
    return made


@jinja2.pass_context
def _finalize(context: object, value: Any) -> Any:
    """Return the output of an expression: references as is, all else escaped, numbers refused.

    It takes the context only so that jinja2 does not escape constants beforehand.
    """
    if isinstance(value, Markup):
        return Markdown(f"{_EDGE}{value}{_EDGE}")
    return without_numbers(str(value), "an expression")


def _parse(template: Template) -> nodes.Template:
    try:
        tree = environment({}).parse(template.source)
    except jinja2.TemplateSyntaxError as error:
        raise _syntax(template, error) from error
    for other in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise FerError(
            "a part must be included on a line of its own, with its name in quotes",
            code="invalid-include",
            where=template.place(other.lineno),
            allowed=", ".join(sorted(part.name for part in PARTS.iterdir())),
        )
    for node in tree.find_all((*COMPUTING, nodes.Call)):
        method = isinstance(node, nodes.Call) and not isinstance(node.node, nodes.Name)
        if method or (isinstance(node, COMPUTING) and not isinstance(node, LOGIC)):
            raise FerError(
                f"a template must not compute: {type(node).__name__.lower()} is not allowed",
                code="template-computes",
                where=template.place(node.lineno),
                allowed="helpers, names, texts, comparisons, and, or, not, macros, filters",
                fix="write texts beside each other: {{ a }} and {{ b }}",
            )
    return tree


def _syntax(template: Template, error: jinja2.TemplateSyntaxError) -> FerError:
    return FerError(
        f"the template cannot be read: {error.message}",
        code="invalid-template",
        where=template.place(error.lineno),
        fix="correct the syntax of the template",
    )


def _line(template: Template, error: BaseException) -> str:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<template>"
    ]
    return template.place(lines[-1]) if lines else str(template.path)
