"""HTML pages rendered from a template that lies beside the calling code."""

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from fer_ml.base.visible import visible_lines


def render_page(template: Path, **values: Any) -> str:
    """Return the page. Values are escaped; a template name without a value is an error."""
    return _environment(template.parent).get_template(template.name).render(**values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    """Return an environment that caches its templates, since reading one is slow."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Make characters visible that would change how a foreign text reads."""
    return visible_lines(value) if type(value) is str else value
