"""Imports run one way, and loading the code location stays light."""

import ast
import re
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
DEMO_MAY_USE = {"base", "bundles", "images"}
#: Rooms in the order of the stream: each imports only what stands before it.
STREAM = (
    *("base", "metrics", "recipes", "figures", "images", "storage", "training"),
    *("distillation", "privacy", "sample", "sources", "claims", "manifests", "evidence"),
    *("exchange", "packed", "report", "validation", "adoption", "runs", "bundles", "evaluation"),
    *("demo_app", "fer_assets.stage", "fer_assets.stages", "fer_assets"),
)


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
        if path == ROOT / "fer_assets" / "doctor.py":
            continue  # It looks for the GPU, inside a function.
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {used}"


def test_the_demo_uses_the_torch_free_part_of_the_library() -> None:
    for path in (ROOT / "demo_app").rglob("*.py"):
        for name in imports(path):
            if name.startswith("fer_ml."):
                assert name.split(".")[1] in DEMO_MAY_USE, f"{path.name} imports {name}"


def room_of(module: str) -> str:
    """``fer_ml.training.loop`` lies in ``training``."""
    parts = module.split(".")
    if parts[0] == "fer_ml":
        return parts[1] if len(parts) > 1 else ""
    return ".".join(parts[:2]) if parts[1:2] in (["stage"], ["stages"]) else parts[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_room_has_its_place_in_the_stream() -> None:
    rooms = {path.name for path in (ROOT / "fer_ml").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == {room for room in STREAM if room not in FORBIDDEN and "." not in room}
    loose = {path.name for path in (ROOT / "fer_ml").glob("*.py")}
    assert loose == {"__init__.py"}


def arrows() -> set[tuple[str, str]]:
    """From each room to those that it imports."""
    found = set()
    for package in FORBIDDEN:
        for path in (ROOT / package).rglob("*.py"):
            here = room_of(module_of(path))
            for name in imports(path):
                if name.split(".")[0] in FORBIDDEN and room_of(name) not in ("", here):
                    found.add((here, room_of(name)))
    return found


def test_imports_between_rooms_follow_the_stream() -> None:
    """So no room, and no package, is part of a cycle."""
    assert len(arrows()) > len(STREAM)
    for here, there in arrows():
        assert STREAM.index(there) < STREAM.index(here or "base"), f"{here} imports {there}"


def test_nothing_is_handed_on_by_changing_the_environment() -> None:
    """A process is started for a profile by what it is given, which others cannot change."""
    changes = {"setdefault", "update", "pop", "popitem", "clear"}
    read = 0
    for path in (ROOT / "fer_assets").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for node in nodes:
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Attribute) and node.attr in ("putenv", "unsetenv"):
                raise AssertionError(where)
            for part in ast.iter_child_nodes(node):
                if not ast.unparse(part).endswith("environ"):
                    continue
                read += 1
                held = isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load)
                held |= isinstance(node, ast.Attribute) and node.attr in changes
                held |= isinstance(node, ast.Assign | ast.AugAssign | ast.alias | ast.Delete)
                assert not held, where
    assert read


def test_the_code_location_loads_without_heavy_libraries() -> None:
    script = (
        "import sys, fer_assets.definitions\n"
        "fer_assets.definitions.sample\n"
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


#: Modules that run what a file says.
UNSAFE_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
#: What a call must say, so that a file is data and nothing else.
SAFE_CALLS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
}
#: Which module alone may make a call, since it looks before.
ONE_DOOR = {
    "onnxruntime.InferenceSession": "fer_ml/bundles/network.py",
    "torch.load": "fer_ml/training/archive.py",
    "np.load": "fer_ml/base/npz.py",
    "np.lib.format.read_array": None,
    "np.fromfile": None,
    "torch.jit.load": None,
    "onnx.load": None,
    "yaml.load": None,
    "yaml.safe_load": None,
    "pd.read_pickle": None,
    "extractall": None,
    "cv2.imread": None,
    "eval": None,
    "exec": None,
}


def sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8")))
        for package in FORBIDDEN
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


@pytest.mark.threat("a file runs code when it is read")
def test_no_file_is_read_as_a_program() -> None:
    """No pickle, no YAML with tags, no network or archive past its one door."""
    seen: dict[str, int] = dict.fromkeys(SAFE_CALLS, 0)
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                used = {str(part).split(".")[0] for part in named}
                assert not used & UNSAFE_IMPORTS, f"{name}:{node.lineno} imports {used}"
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            if call in SAFE_CALLS:
                keyword, value = SAFE_CALLS[call]
                told = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert told.get(keyword) is value, f"{name}:{node.lineno}: {call} without {keyword}"
                seen[call] += 1
            archive = call.rpartition(".")[2] == "extractall"
            for door in {"extractall" if archive else call} & set(ONE_DOOR):
                assert name == ONE_DOOR[door], f"{name}:{node.lineno} calls {call}"
    assert all(seen.values()), f"the test looks for calls that nobody makes: {seen}"


@pytest.mark.threat(
    "a file name is a pattern, such as `fer [copy]`",
    "polars is told that a path is not a pattern.",
)
def test_a_path_is_no_pattern_to_polars_and_no_archive() -> None:
    """Else a folder called ``fer [copy]`` is not found, and ``a*`` reads other folders too.

    A table that is compressed would be unpacked, whatever its size.
    """
    calls = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"pl\.(read|scan)_\w+", ast.unparse(node.func)
            ):
                if ast.unparse(node.args[0]).startswith("io.BytesIO("):
                    continue
                told = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                assert told.get("glob") is False, f"{name}:{node.lineno}"
                if "_csv" in ast.unparse(node.func):
                    door = ast.unparse(node.args[0])
                    assert door.startswith("as_text("), f"{name}:{node.lineno}: {door}"
                calls += 1
    assert calls > 5


@pytest.mark.threat(
    "a name contains mark-up",
    "Every page escapes what it shows, and its policy allows no script from elsewhere.",
)
def test_every_page_escapes_what_it_shows() -> None:
    """Templates are made with ``autoescape``, and none lets a value past it."""
    made = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment"):
                told = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
                if "loader" in told or "undefined" in told:
                    assert told.get("autoescape") is True, f"{name}:{node.lineno}"
                    made += 1
    assert made >= 2  # Pages, and the reports' sandbox.
    pages = [*(ROOT / "fer_ml").rglob("*.html.j2"), *(ROOT / "fer_assets").rglob("*.html.j2")]
    assert len(pages) >= 5
    for path in pages:
        raw = [
            line for line in path.read_text().splitlines() if "| safe" in line or "|safe" in line
        ]
        assert all("body" in line for line in raw), f"{path.name}: {raw}"


def test_what_is_logged_is_a_template() -> None:
    """A bundle for a maintainer holds these texts: nothing may be filled into them before."""
    calls = 0
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and re.fullmatch(
                r"log\.(debug|info|warning|error|exception)", ast.unparse(node.func)
            ):
                calls += 1
                assert isinstance(node.args[0], ast.Constant), f"{name}:{node.lineno}"
    assert calls > 10


CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+){1,4}")
#: Who looks a code up: of an error that arrived as a text, and of what the system or pydantic said.
LOOKED_UP = {"fer_assets/running.py", "fer_ml/base/files.py", "fer_ml/recipes/training.py"}


def error_types() -> set[str]:
    """``FerError`` and the classes below it, by name."""
    found = {"FerError"}
    for _ in range(2):
        for _, tree in sources():
            classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
            found |= {c.name for c in classes if found & {ast.unparse(base) for base in c.bases}}
    return found


def test_every_error_has_a_code_that_can_be_searched_for() -> None:
    """One written there, or that of the error that is passed on."""
    kinds, codes = error_types(), set()
    own = set()  # Those that are told no code: they give one to ``super()``.
    for _, tree in sources():
        for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            if kind.name in kinds - {"FerError"} and "super().__init__(" in ast.unparse(kind):
                own.add(kind.name)
    for name, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in kinds - own:
                continue
            code = next((word.value for word in node.keywords if word.arg == "code"), None)
            if isinstance(code, ast.Constant):
                assert CODE.fullmatch(str(code.value)), f"{name}:{node.lineno}: {code.value}"
                codes.add(code.value)
            else:
                passed_on = code is not None and ast.unparse(code).endswith(".code")
                assert passed_on or name in LOOKED_UP, f"{name}:{node.lineno}: no code"
    assert len(codes) > 100


def test_no_test_asserts_the_wording_of_an_error() -> None:
    """Its code and its fields: ``tests.refusals.refused``."""
    kinds = error_types()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
                words = {word.arg for word in node.keywords}
                told = node.args and ast.unparse(node.args[0]) in kinds and "match" in words
                assert not told, f"{path.relative_to(ROOT)}:{node.lineno}"
