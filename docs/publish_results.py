"""Put a report into the docs: python docs/publish_results.py REPORT_RUN_FOLDER

``results.md`` is the report's Markdown with its figures beside it, and nothing is written by hand.
A page of these docs knows its anchors by ``<a id>``, the report by the table of its claims.
"""

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures"


def publish(run: Path) -> None:
    """Write ``results.md`` and ``figures/`` from the run folder of the asset ``report``."""
    text = (run / "report.md").read_text("utf-8")
    text = re.sub(r"^\| \[(c\d+)\]\(#\1\)", r'| <a id="\1"></a>\1', text, flags=re.MULTILINE)
    shutil.rmtree(FIGURES, ignore_errors=True)
    shutil.copytree(run / "figures", FIGURES)
    (DOCS / "results.md").write_text(text, "utf-8")


if __name__ == "__main__":
    publish(Path(sys.argv[1]))
