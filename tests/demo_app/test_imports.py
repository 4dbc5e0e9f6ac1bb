import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "timm", "polars", "dagster")


def test_the_demo_needs_no_training_library() -> None:
    names = sorted(path.stem for path in (ROOT / "demo_app").glob("[a-z]*.py"))
    assert {"web", "window", "session", "buffer"} <= set(names)
    code = (
        f"import sys, {', '.join(f'demo_app.{name}' for name in names)}; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
