"""One HTML page from a template beside the code that fills it."""

from pathlib import Path
from typing import Any

import jinja2

from fer_ml.base.visible import visible_lines


def render_page(template: Path, **values: Any) -> str:
    """The page. Values are escaped, and a name that the template alone knows is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)


def _shown(value: Any) -> Any:
    """A text from elsewhere without characters that change how it reads."""
    return visible_lines(value) if type(value) is str else value
