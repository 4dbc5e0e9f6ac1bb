"""Imports run one way, and loading the code location stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "fer_ml": {"dagster", "fer_assets", "demo_app"},
    "demo_app": {"dagster", "fer_assets", "torch", "timm", "polars", "sklearn", "scipy"},
    "fer_assets": {"torch", "timm"},
}
#: What demo_app may use of fer_ml: the part without torch and polars.
DEMO_MAY_USE = {
    "bundle",
    "errors",
    "files",
    "gates",
    "images",
    "job",
    "labels",
    "profiles",
    "store",
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_run_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        if path.name == "doctor.py" and package == "fer_assets":
            continue  # It looks for the GPU, inside a function.
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {used}"


def test_the_demo_uses_the_torch_free_part_of_the_library() -> None:
    for path in (ROOT / "demo_app").rglob("*.py"):
        for name in imports(path):
            if name.startswith("fer_ml."):
                assert name.split(".")[1] in DEMO_MAY_USE, f"{path.name} imports {name}"


def test_stages_of_the_library_read_left_to_right() -> None:
    order = [
        "sources",
        "sample",
        "manifests",
        "validation",
        "distillation",
        "evaluation",
        "training",
        "claims",
    ]
    later = {
        "manifests": {"validation", "training", "distillation", "evaluation", "claims"},
        "sources": set(order[1:]),
        "validation": {"training", "distillation", "claims"},
    }
    for stage, forbidden in later.items():
        for path in (ROOT / "fer_ml" / stage).rglob("*.py"):
            used = {n.split(".")[1] for n in imports(path) if n.startswith("fer_ml.")}
            assert not used & forbidden, f"{path.relative_to(ROOT)} imports {used & forbidden}"


def test_the_code_location_loads_without_heavy_libraries() -> None:
    script = (
        "import sys, fer_assets.definitions\n"
        "heavy = {'torch', 'timm', 'cv2', 'polars', 'scipy', 'sklearn', 'onnxruntime',"
        " 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == "[]"
