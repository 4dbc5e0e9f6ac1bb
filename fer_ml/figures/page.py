"""One HTML page from a template beside the code that fills it."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from fer_ml.base.visible import visible_lines


def render_page(template: Path, **values: Any) -> str:
    """The page. Values are escaped, and a name that the template alone knows is an error."""
    return _environment(template.parent).get_template(template.name).render(**values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    """It keeps its templates: reading one takes far longer than filling it."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """A text from elsewhere without characters that change how it reads."""
    return visible_lines(value) if type(value) is str else value
