import subprocess
import sys

HEAVY = ("torch", "timm", "polars", "dagster")


def test_the_demo_needs_no_training_library() -> None:
    code = (
        "import sys, demo_app.session, demo_app.photo, demo_app.kpis, demo_app.window; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
