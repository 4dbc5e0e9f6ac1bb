"""axe-core, where ``AXE_CORE`` names its script: ``npm pack axe-core`` brings ``axe.min.js``."""

import os
from pathlib import Path
from typing import Any

#: Light and dark, on a desk and in a hand.
SCHEMES = ("light", "dark")
WIDTHS = (1440, 390)
AXE = os.environ.get("AXE_CORE")


def violations(page: Any) -> list[str]:
    """What axe finds on a page that is open: the rule, and the first place that breaks it."""
    # Not a script tag: the pages' own policy would refuse it.
    page.evaluate(Path(str(AXE)).read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{page.url}: {each['id']} {each['nodes'][0]['html'][:200]}" for each in found]
