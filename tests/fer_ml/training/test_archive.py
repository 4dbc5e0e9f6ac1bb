"""What ``torch.save`` wrote is read as data: no program, no trick of a pickle, nothing endless."""

import io
import pickle
import shutil
import struct
import sys
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fer_ml.adoption.weights import in_network_order
from fer_ml.base.errors import FerError
from fer_ml.base.labels import CLASSES
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.recipes.training import CE, ArcFace, Training
from fer_ml.training.archive import MAX_CALLS, MAX_PICKLE, read_archive
from fer_ml.training.checkpoint import Checkpoint, load_checkpoint
from fer_ml.training.convert import convert
from fer_ml.training.models import build_model, first_weights, shape_of
from tests.refusals import refused

RECIPE = Training(architecture="test_resnet", task=CE(), init="none", epochs=1)
PLAIN: dict[str, Any] = {"teacher": False, "size": 64, "clahe_clip": 2.0}
STATE = {"model": {"w": torch.arange(3.0)}}

SCRIPT = """
import torch, typing
from torch import Tensor
class Held(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.x = torch.arange(4.0)
        self.training = False
    @torch.jit.export
    def __getstate__(self):
        return (self.x, self.training)
    @torch.jit.export
    def __setstate__(self, state: typing.Tuple[Tensor, bool]):
        self.x = state[0]
        self.training = state[1]
        torch.save(state[0], "{target}")
    def forward(self, x: Tensor):
        return x + self.x
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """A TorchScript archive that writes a file when it is loaded; that file, not there yet."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "scripted_module.py").write_text(SCRIPT.replace("{target}", str(folder / "ran")))
    sys.path.insert(0, str(folder))
    try:
        from scripted_module import Held
    finally:
        sys.path.remove(str(folder))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch would rather have other programs.
        torch.jit.save(torch.jit.script(Held()), buffer)
    (folder / "ran").unlink(missing_ok=True)
    return buffer.getvalue(), folder / "ran"


def saved(value: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def rewritten(data: bytes, change: Callable[[str, bytes], tuple[str, bytes]], **how: int) -> bytes:
    """The archive with each entry's name and bytes changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", **how) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return buffer.getvalue()


def with_pickle(body: bytes) -> bytes:
    """An archive of ``torch.save`` with another pickle."""
    return rewritten(
        saved(STATE), lambda name, held: (name, body if name.endswith(".pkl") else held)
    )


def renamed(name: str, held: bytes) -> tuple[str, bytes]:
    return name.replace("/code/", "/else/").replace("constants.pkl", "c.pkl"), held


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", ["best.pt", "best.ckpt", "x"])
def test_torchscript_is_refused_and_not_run(
    tmp_path: Path, script: tuple[bytes, Path], name: str, hidden: bool
) -> None:
    data, ran = script
    path = tmp_path / name
    path.write_bytes(rewritten(data, renamed) if hidden else data)
    recipe = replace(RECIPE, init="file", init_file=str(path))
    for read in (
        read_archive,
        lambda p: read_archive(p, inert=True),
        load_checkpoint,
        lambda p: convert(p, tmp_path / "new", architecture="test_resnet", **PLAIN),
        lambda _: first_weights(build_model(recipe), recipe),
    ):
        with refused("invalid-checkpoint" if read is load_checkpoint else "torchscript-archive"):
            read(path)
        assert not ran.exists()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return buffer.getvalue()


def legacy() -> bytes:
    return saved(STATE, _use_new_zipfile_serialization=False)


def twice() -> bytes:
    buffer = io.BytesIO(saved(STATE))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    return buffer.getvalue()


FORMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "tar": (tar, "not-torch-save"),
    "before 1.6": (legacy, "not-torch-save"),
    "bare pickle": (lambda: pickle.dumps({"model": {}}), "not-torch-save"),
    "packed": (
        lambda: rewritten(saved(STATE), lambda *entry: entry, compression=zipfile.ZIP_DEFLATED),
        "compressed-archive",
    ),
    "a name twice": (twice, "not-torch-save"),
    "no pickle": (lambda: rewritten(saved(STATE), lambda n, h: (f"{n}x", h)), "not-torch-save"),
    "no end": (lambda: saved(STATE)[:-30], "damaged-checkpoint"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inert", [False, True])
def test_other_formats_are_refused_by_name(tmp_path: Path, form: str, inert: bool) -> None:
    make, code = FORMS[form]
    (tmp_path / "x.pt").write_bytes(make())
    with refused(code, where=tmp_path / "x.pt"):
        read_archive(tmp_path / "x.pt", inert=inert)


class Calls:
    def __init__(self, function: object, *arguments: object) -> None:
        self.made = function, arguments

    def __reduce__(self) -> object:
        return self.made


def shared(times: int) -> list[object]:
    """A list that holds itself twice, twice, ...: 2**times ways lead to its end."""
    held: list[object] = []
    for _ in range(times):
        held = [held, held]
    return held


def nested(times: int) -> list[object]:
    held: list[object] = []
    for _ in range(times):
        held = [held]
    return held


def subclass() -> Tensor:
    tensor = torch.zeros(2)
    tensor.numel = 5  # type: ignore[assignment, method-assign]
    return tensor


def claimed() -> bytes:
    """A tensor of a billion numbers whose bytes are twelve."""
    found = zipfile.ZipFile(io.BytesIO(saved(STATE))).read("archive/data.pkl")
    return with_pickle(found.replace(b"K\x03", b"J" + struct.pack("<i", 10**9)))


TRICKS: dict[str, tuple[Callable[[], bytes], str]] = {
    "protocol 4": (lambda: saved(STATE, pickle_protocol=4), "unsafe-checkpoint"),
    "a global from the stack": (
        lambda: with_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93."),
        "unsafe-checkpoint",
    ),
    "an extension": (lambda: with_pickle(b"\x80\x02\x82\x01."), "unsafe-checkpoint"),
    "an instance": (lambda: with_pickle(b"(ios\nsystem\n."), "unsafe-checkpoint"),
    "the system": (
        lambda: with_pickle(b"\x80\x02cos\nsystem\nX\1\0\0\0x\x85R."),
        "unsafe-checkpoint",
    ),
    "bytes without an end": (
        lambda: with_pickle(b"\x80\x02X\xff\xff\xff\x7fab."),
        "damaged-checkpoint",
    ),
    "much memory": (
        lambda: with_pickle(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        "unsafe-checkpoint",
    ),
    "an empty tensor": (
        lambda: with_pickle(b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R."),
        "unsafe-checkpoint",
    ),
    "no bytes": (lambda: saved(torch.zeros(3, device="meta")), "unsafe-checkpoint"),
    "few bytes, often": (lambda: saved(torch.zeros(1).expand(10**12)), "unsafe-checkpoint"),
    "more than its bytes": (claimed, "damaged-checkpoint"),
    "sparse": (lambda: saved(torch.eye(3).to_sparse()), "unsafe-checkpoint"),
    "attributes": (lambda: saved(subclass()), "unsafe-checkpoint"),
    "many calls": (
        lambda: with_pickle(
            b"\x80\x02" + b"ccollections\nOrderedDict\n)R" * (MAX_CALLS + 1) + b"."
        ),
        "checkpoint-too-complex",
    ),
    "many names": (
        lambda: with_pickle(b"\x80\x02" + b"".join(b"ca\nb%d\n" % n for n in range(99)) + b"."),
        "checkpoint-too-complex",
    ),
    "a long pickle": (
        lambda: with_pickle(b"\x80\x02" + b"N" * MAX_PICKLE + b"."),
        "checkpoint-too-complex",
    ),
    "shared": (lambda: saved(shared(60)), "checkpoint-too-complex"),
    "deep": (lambda: saved(nested(300)), "checkpoint-too-complex"),
    "a long text, often": (lambda: saved(["x" * 100_000] * 100_000), "checkpoint-too-complex"),
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("inert", [False, True])
def test_tricks_of_pickles_are_refused(tmp_path: Path, trick: str, inert: bool) -> None:
    make, code = TRICKS[trick]
    if inert and trick == "the system":
        code = "damaged-checkpoint"  # A placeholder stands for it, and cannot be called.
    (tmp_path / "x.pt").write_bytes(make())
    with refused(code) as caught:
        read_archive(tmp_path / "x.pt", inert=inert)
    assert len(str(caught.value)) < 2000


def test_objects_become_placeholders_on_request(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    held = {
        **STATE,
        "args": {"out": tmp_path, "evil": Calls(shutil.copyfile, __file__, str(ran))},
        "epoch": 3,
    }
    (tmp_path / "x.pt").write_bytes(saved(held))
    with refused("unsafe-checkpoint"):
        read_archive(tmp_path / "x.pt")
    found = read_archive(tmp_path / "x.pt", inert=True)
    assert found["epoch"] == 3
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    assert not ran.exists()


#: Pieces of pickles; put together at random they do nearly anything but end well.
PIECES = [
    *(
        b"\x80\x02",
        b"(",
        b")",
        b"]",
        b"}",
        b"N",
        b"K\x03",
        b"\x85",
        b"\x86",
        b"t",
        b"R",
        b"b",
        b"s",
    ),
    *(b"u", b"a", b"e", b"q\x00", b"h\x00", b"\x81", b"Q", b"0", b"X\x07\0\0\0storage", b"U\x010"),
    *(b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nSize\n"),
    *(
        b"ctorch\nFloatStorage\n",
        b"c_codecs\nencode\n",
        b"cpathlib\nPath\n",
        b"\x8f",
        b"X\3\0\0\0cpu",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.booleans())
@pytest.mark.threat(
    "a file runs code when it is read",
    "No pickle is loaded. `training/archive.py` reads checkpoints as plain values and dense "
    "tensors; `base/npz.py` reads arrays; `fer convert` works in a process of its own.",
)
def test_any_pickle_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], inert: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pt"
    path.write_bytes(with_pickle(b"\x80\x02" + b"".join(pieces) + b"."))
    with suppress(FerError):
        read_archive(path, inert=inert)


NAMES = (
    *(
        "hf-hub:evil/model",
        "hf_hub:evil/model",
        "local-dir:/tmp/x",
        "timm/resnet18",
        "/tmp/resnet18",
    ),
    *(
        "https://a.example/resnet18",
        "../resnet18",
        "resnet18.nobody",
        "resnet18/",
        "",
        "a" * 10_000,
    ),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.threat(
    "a checkpoint names a hub, a folder or a giant as its architecture",
    "Only names in timm's own list are built. Weights are compared with the shapes first.",
)
def test_only_names_of_timms_own_list_are_built(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def asked(*_: object, **__: object) -> NoReturn:
        raise AssertionError("timm was asked for it")

    monkeypatch.setattr(timm, "create_model", asked)
    recipe = replace(RECIPE, architecture=name)
    for build in (build_model, shape_of):
        with refused("unknown-architecture") as caught:
            build(recipe)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("task", [CE(), ArcFace(embedding=8192)])
@pytest.mark.threat("a checkpoint names a hub, a folder or a giant as its architecture")
def test_a_giant_is_refused_before_it_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: CE | ArcFace
) -> None:
    """Seven billion weights, named in a few bytes."""
    made = timm.create_model

    def watched(*arguments: object, **named: object) -> nn.Module:
        assert torch.empty(1).is_meta
        return made(*arguments, **named)

    monkeypatch.setattr(timm, "create_model", watched)
    recipe = replace(RECIPE, architecture="vit_7b_patch16_dinov3", task=task)
    state = OrderedDict(x=torch.zeros(1))
    given = Checkpoint(state, recipe, Preprocess(size=32), CLASSES, 1)
    with refused("weights-do-not-fit"):
        given.network()
    with pytest.raises(FerError) as caught:
        in_network_order(given, tmp_path / "best.pt")
    assert caught.value.where == str(tmp_path / "best.pt")


def test_published_weights_of_before_torch_1_6_are_data_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(legacy())
    found = read_archive(path, old=True)
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    ran = tmp_path / "ran"
    evil = {**STATE, "evil": Calls(shutil.copyfile, __file__, str(ran))}
    for data, code in (
        (saved(evil, _use_new_zipfile_serialization=False), "unsafe-checkpoint"),
        (pickle.dumps(evil["evil"], 2), "unsafe-checkpoint"),
        (legacy()[:-5], "damaged-checkpoint"),
        (legacy().replace(b"K\x03", b"K\x40"), "damaged-checkpoint"),
    ):
        path.write_bytes(data)
        with refused(code):
            read_archive(path, old=True)
    assert not ran.exists()
