"""The safe reader of files of ``torch.save``: the only module that calls ``torch.load``.

Such a file is a zip with a pickle and the bytes of its tensors. The reader takes it apart, checks
the parts, and gives only these to torch in a new archive. Refused are programs (TorchScript), the
format before torch 1.6, and pickles that build more than plain values and tensors. Time and memory
are bounded before anything is built.
"""

import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from fer_ml.base.errors import FerError
from fer_ml.base.reading import read_file

#: No checkpoint of an image classifier with its optimiser needs more.
MAX_BYTES = 4 << 30
#: Bytes of the pickle, its instructions that build something, and the classes that it names: a
#: large network with its optimiser needs a tenth of them.
MAX_PICKLE, MAX_CALLS, MAX_NAMES = 2 << 20, 20_000, 50
#: Plain values in a file, each counted as often as it is reached, and a text by its length.
MAX_VALUES = 300_000
MAX_DEPTH = 50
_PLAIN = """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
    SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT
    SETITEM SETITEMS EMPTY_SET BINPUT LONG_BINPUT BINGET LONG_BINGET BINPERSID GLOBAL REDUCE NEWOBJ
    BUILD
"""
_OPCODES = frozenset(_PLAIN.split())
_CALLS = frozenset({"REDUCE", "NEWOBJ", "BUILD"})
#: What builds tensors and plain values. torch would let in more, such as tensors without bytes.
_BUILT = """
    collections.OrderedDict collections.Counter torch._utils._rebuild_tensor_v2
    torch._utils._rebuild_parameter torch.Size torch.device _codecs.encode builtins.set
    builtins.complex
"""
_BUILDERS = frozenset(_BUILT.split())
_OF_TORCH = re.compile(r"(torch|collections|builtins|_codecs)\b.*")
_PARTS = re.compile(r"data\.pkl|byteorder|version|data/[0-9]{1,9}")
_AGAIN = "load it where it was made, and save its state dict with torch.save"


class Inert:
    """A placeholder for any class that a pickle names; it accepts all arguments, does nothing."""

    def __new__(cls, *arguments: Any, **named: Any) -> "Inert":
        """Return a placeholder, whatever the arguments are."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_archive(path: Path, *, inert: bool = False, old: bool = False) -> Any:
    """Read the tensors and plain values of ``path``; ``FerError`` if it holds anything else.

    With ``inert`` each object of an unknown class becomes a placeholder; without it the file is
    refused. ``old`` also accepts the format before torch 1.6, as published weights have it.
    ``OSError`` if the file cannot be opened.
    """
    data = read_file(path, MAX_BYTES)
    if old and data[:1] == b"\x80":
        return _read_old(data, path)
    return parse_archive(data, path, inert=inert)


def parse_archive(data: bytes, path: Path, *, inert: bool = False) -> Any:
    """Parse the bytes of a file as ``read_archive`` does; ``path`` is for error messages alone."""
    parts = _parts(data, path)
    del data
    named = _names(io.BytesIO(parts["data.pkl"]), path)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as put:
        for name, data in parts.items():
            put.writestr(f"archive/{name}", data)
    del parts
    archive.seek(0)
    try:
        unknown = set(torch.serialization.get_unsafe_globals_in_checkpoint(archive))
        _judge_names(named, unknown, inert, path)
        archive.seek(0)
        placeholders = [(Inert, name) for name in unknown]
        with torch.serialization.safe_globals(placeholders):  # type: ignore[arg-type]
            content = torch.load(archive, map_location="cpu", weights_only=True)
    except FerError:
        raise
    except Exception as error:  # Foreign bytes: torch raises whatever they lead it to.
        raise FerError(
            f"the file is damaged: {_reason(error)}", code="damaged-checkpoint", where=path
        ) from error
    _judge_values(content, path)
    return content


def _read_old(data: bytes, path: Path) -> Any:
    """Read the old format: five pickles (number, version, machine, object, keys), then tensors."""
    pickles = io.BytesIO(data)
    for _ in range(5):
        named = _names(pickles, path)
        _judge_names(named, {name for name in named if not _OF_TORCH.fullmatch(name)}, False, path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # Foreign bytes: torch raises whatever they lead it to.
        raise FerError(
            f"the file is damaged: {_reason(error)}", code="damaged-checkpoint", where=path
        ) from error
    _judge_values(content, path)
    return content


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _reason(error: Exception) -> str:
    """Return torch's message without its advice to run the file's code."""
    match = re.search(r"(?<=WeightsUnpickler error:)\s*.+|Trying to load .+", str(error))
    return match[0].strip()[:300] if match else first_line(error)


def _parts(data: bytes, where: Path) -> dict[str, bytes]:
    """The pickle and the bytes of each tensor, by their names in the archive."""
    if not data.startswith(b"PK\3\4"):
        raise FerError(
            f"not a file of torch.save: {_looks_like(data)}",
            code="not-torch-save",
            where=where,
            allowed="the zip that torch.save writes since torch 1.6",
            fix=_AGAIN,
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            inside = [entry.filename.partition("/")[2] for entry in entries]
            if any(name.lower().startswith(("code/", "constants.pkl")) for name in inside):
                raise _script(where)
            odd = [e.filename for e in entries if e.compress_type or e.flag_bits & 1]
            if odd or sum(entry.file_size for entry in entries) > len(data):
                raise FerError(
                    f"the archive is compressed: {odd[:1] or 'its entries overlap'}",
                    code="compressed-archive",
                    where=where,
                    allowed="entries as torch.save stores them, without compression",
                )
            if len(set(inside)) < len(inside) or "data.pkl" not in inside:
                raise FerError(
                    "not a file of torch.save: no data.pkl, or a name twice",
                    code="not-torch-save",
                    where=where,
                )
            taken = zip(entries, inside, strict=True)
            return {n: archive.read(e) for e, n in taken if _PARTS.fullmatch(n)}
    except (
        *(zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError),
        *(ValueError, OverflowError, MemoryError, zlib.error),
    ) as error:
        raise FerError(
            f"the archive is damaged: {first_line(error)}", code="damaged-checkpoint", where=where
        ) from error


def _looks_like(data: bytes) -> str:
    if data[257:262] == b"ustar":
        return "a tar, as torch wrote before 0.2"
    return "a bare pickle, as torch wrote before 1.6" if data[:1] == b"\x80" else "no zip"


def _script(where: Path) -> FerError:
    return FerError(
        "a TorchScript archive: a program with weights, which would run when it is loaded",
        code="torchscript-archive",
        where=where,
        allowed="weights and plain values",
        fix=_AGAIN,
    )


def _names(pickle: IO[bytes], where: Path) -> set[str]:
    """What the pickle names, when all of its instructions are known and few."""
    names, calls, begin = set(), 0, pickle.tell()
    try:
        for opcode, argument, place in pickletools.genops(pickle):
            if (place or 0) - begin > MAX_PICKLE:
                raise FerError(
                    f"the pickle of the file has more than {MAX_PICKLE:,} bytes",
                    code="checkpoint-too-complex",
                    where=where,
                    fix=_AGAIN,
                )
            if opcode.name not in _OPCODES:
                raise FerError(
                    f"the pickle of the file has the unsafe instruction {opcode.name}",
                    code="unsafe-checkpoint",
                    where=where,
                    fix=_AGAIN,
                )
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                names.add(f"{'builtins' if module == '__builtin__' else module}.{name}")
            calls += opcode.name in _CALLS
    except FerError:
        raise
    except Exception as error:  # pickletools raises nearly anything on hostile bytes.
        raise FerError(
            f"the pickle of the file is damaged: {first_line(error)}",
            code="damaged-checkpoint",
            where=where,
        ) from error
    if any(name.startswith("__torch__") for name in names):
        raise _script(where)
    if calls > MAX_CALLS or len(names) > MAX_NAMES:
        raise FerError(
            f"the pickle of the file builds {calls:,} objects of {len(names)} kinds",
            code="checkpoint-too-complex",
            where=where,
            allowed=f"at most {MAX_CALLS:,} of {MAX_NAMES}",
            fix=_AGAIN,
        )
    return names


def _judge_names(named: set[str], unknown: set[str], inert: bool, where: Path) -> None:
    """``FerError`` for a name that builds what is neither a plain value nor a placeholder."""
    odd = {
        name
        for name in named - unknown - _BUILDERS
        if _OF_TORCH.fullmatch(name) and not _is_kind(name)
    }
    if odd or (unknown and not inert):
        names = sorted(odd or unknown)
        raise FerError(
            f"the file holds more than weights and plain values: it names {', '.join(names[:3])}",
            code="unsafe-checkpoint",
            where=where,
            allowed="dense tensors, numbers, texts, lists and tables",
            fix="a checkpoint of the first pipeline is converted by: fer convert FILE",
        )


def _is_kind(name: str) -> bool:
    """Whether ``name`` is the type of a tensor's numbers, or of its bytes."""
    kind = getattr(torch, name.rpartition(".")[2], None)
    return isinstance(kind, torch.dtype) or name.endswith("Storage")


def _judge_values(content: Any, where: Path) -> None:
    """Tensors are dense and have their bytes; plain values are few, however often they are shared.

    A few bytes can make a list of lists of themselves that nobody prints to its end.
    """
    seen = 0
    for value, depth in _walk(content):
        seen += 1 + (len(value) // 64 if isinstance(value, str | bytes) else 0)
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            raise FerError(
                "the values of the file are too many or too deep",
                code="checkpoint-too-complex",
                where=where,
                allowed=f"at most {MAX_VALUES:,} values, at most {MAX_DEPTH} deep",
                fix=_AGAIN,
            )
        if isinstance(value, torch.Tensor):
            dense = value.layout is torch.strided and value.device.type == "cpu"
            if not dense or value.is_quantized or value.__dict__ or _repeats(value):
                raise FerError(
                    "the file has a tensor that is not dense and plain",
                    code="unsafe-checkpoint",
                    where=where,
                    allowed="dense tensors",
                    fix=_AGAIN,
                )


def _repeats(tensor: torch.Tensor) -> bool:
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """``value`` and all that it holds, with how deep it lies; one at a time, and no deeper."""
    yield value, depth
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set):
        for each in value:
            yield from _walk(each, depth + 1)
