"""Every file that is read is opened by ``fer_ml/base/reading.py``, whatever parses it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fer_ml", "fer_assets", "demo_app")
DOOR = Path("fer_ml/base/reading.py")
#: What the door gives; and bytes that are in memory already.
GIVEN = {"open_file", "open_text", "read_file", "regular", "as_text", "BytesIO"}
#: Of libraries: what takes the path of a file, or a handle of one.
PARSERS = {
    *("load", "memmap", "fromfile", "loadtxt", "genfromtxt", "open_memmap"),
    *("read_csv", "scan_csv", "read_parquet", "scan_parquet", "read_ipc", "scan_ipc"),
    *("read_ndjson", "scan_ndjson", "read_excel", "read_avro", "read_csv_batched"),
    *("safe_open", "load_file", "load_model", "InferenceSession", "ZipFile", "is_zipfile"),
    *("TarFile", "imread", "imreadmulti", "VideoCapture", "readNet", "CascadeClassifier"),
    *("copyfile", "copy2", "copytree", "fdopen", "FileIO", "file_digest"),
}
#: Modules that have ``open`` and are not paths.
MODULES = {"os", "io", "codecs", "gzip", "bz2", "lzma", "tarfile", "Image", "wave"}
#: What has a method ``open`` of its own.
OWN = {"Pipeline"}
WRITES = ("w", "a", "x", "r+")

#: What is opened elsewhere, and why that is right.
ELSEWHERE = {
    ("fer_ml/base/processes.py", "read_text"): "Linux's /proc, which is no folder of anybody's",
    ("fer_ml/base/processor.py", "read_text"): "Linux's /proc",
    ("fer_ml/base/files.py", "os.open"): "writes a file back to its disk, and reads nothing",
    ("fer_ml/base/logs.py", "os.open"): "appends to the log, and reads nothing",
    ("fer_ml/bundles/network.py", "InferenceSession"): "of bytes that the door gave",
    ("demo_app/detection.py", "CascadeClassifier"): "a file of the installed OpenCV",
    ("demo_app/sources.py", "VideoCapture"): "a camera by its number",
    ("fer_assets/cli.py", "os.open"): "the null device, in the place of a closed stream",
    ("fer_assets/cli.py", "fdopen"): "the same",
    ("fer_assets/migrating.py", "copytree"): "Dagster's own database, by the user's command",
}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _gives(node: ast.expr) -> bool:
    """Whether a call of the door stands somewhere in an expression."""
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return any(_dotted(func).rpartition(".")[2] in GIVEN for func in calls)


def _given_names(tree: ast.AST) -> set[str]:
    """Names that ``with open_file(...) as name`` or ``name = regular(...)`` bound."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and node.optional_vars and _gives(node.context_expr):
            names.add(_dotted(node.optional_vars))
        elif isinstance(node, ast.Assign) and _gives(node.value):
            names |= {_dotted(target) for target in node.targets}
    return names - {""}


def _mode(call: ast.Call, place: int) -> str:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    for value in [*call.args[place : place + 1], *named]:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def opened(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every call that opens a file to read it and had it from no door."""
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.Module):
            continue
        given = _given_names(scope)
        inner = [n for n in ast.walk(scope) if isinstance(n, ast.FunctionDef) and n is not scope]
        hidden = {id(n) for function in inner for n in ast.walk(function)}
        for call in (n for n in ast.walk(scope) if isinstance(n, ast.Call) and id(n) not in hidden):
            name = _opens(call, given)
            if name:
                yield call.lineno, name


def _opens(call: ast.Call, given: set[str]) -> str:
    name = _dotted(call.func)
    last = name.rpartition(".")[2] or getattr(call.func, "attr", "")
    is_method = isinstance(call.func, ast.Attribute)
    if is_method and last in ("read_text", "read_bytes"):
        return last
    first = call.args[0] if call.args else None
    if first is not None and (_gives(first) or _dotted(first) in given):
        return ""
    if last in PARSERS:
        if last == "load" and name.partition(".")[0] not in ("np", "torch", "json", "onnx"):
            return ""
        return "" if _mode(call, 1).startswith(WRITES) else last
    if last != "open":
        return ""
    owner = name.rpartition(".")[0]
    if not is_method or owner in MODULES:
        return "" if _mode(call, 1).startswith(WRITES) else name
    is_path = first is None or isinstance(first, ast.Constant)
    return name if is_path and owner not in OWN and not _mode(call, 0).startswith(WRITES) else ""


@pytest.mark.threat(
    "a pipe, a device or a circle of links stands in for a file",
    "`base/reading.py` opens every file: without waiting, regular files only, of bounded size.",
)
def test_every_file_is_opened_by_the_door() -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            here = path.relative_to(ROOT)
            if here != DOOR:
                for line, name in opened(ast.parse(path.read_text(encoding="utf-8"))):
                    found.setdefault((here.as_posix(), name), []).append(line)
    assert set(found) - set(ELSEWHERE) == set(), found
    assert set(ELSEWHERE) <= set(found), "a reason for nothing"


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "open(path, 'rb')",
        "path.open()",
        "path.open('rb')",
        "path.open(encoding='utf-8')",
        "io.open(path)",
        "os.open(path, flags)",
        "path.read_text()",
        "(folder / 'a').read_bytes()",
        "json.load(open(path))",
        "np.load(path)",
        "np.load(str(path), mmap_mode='r')",
        "np.memmap(path, np.uint8)",
        "torch.load(path, weights_only=True)",
        "pl.read_csv(path)",
        "pl.scan_parquet(folder / 'a')",
        "onnxruntime.InferenceSession(str(path))",
        "cv2.imread(str(path))",
        "cv2.VideoCapture(str(path))",
        "Image.open(path)",
        "zipfile.ZipFile(path)",
        "shutil.copyfile(path, other)",
        "def f():\n    with open_file(path) as a: pass\ndef g(a):\n    np.load(a)",
    ],
)
def test_what_opens_a_file_is_found(code: str) -> None:
    assert list(opened(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "np.load(regular(path), mmap_mode='r')",
        "pl.read_csv(io.BytesIO(text))",
        "cv2.VideoCapture(str(regular(path)))",
        "with open_file(path) as file:\n    json.load(file)",
        "path.open('wb')",
        "path.open(mode='w')",
        "zipfile.ZipFile(buffer, 'w')",
        "store.open(folder)",
        "Pipeline.open()",
    ],
)
def test_what_the_door_gave_or_writes_is_let_through(code: str) -> None:
    assert not list(opened(ast.parse(code)))
