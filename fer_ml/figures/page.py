"""One HTML page from a template beside the code that fills it."""

from pathlib import Path
from typing import Any

import jinja2


def render_page(template: Path, **values: Any) -> str:
    """The page. Values are escaped, and a name that the template alone knows is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
