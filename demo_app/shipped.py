"""The student that ships with the package, so that the demo works right after installing."""

from pathlib import Path

#: A bundle with ``lineage.json`` and ``README.md``, its card for people; ``fer card``.
SHIPPED = Path(__file__).parent / "student"
