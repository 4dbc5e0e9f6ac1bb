"""Names that become files: what one system refuses is refused, or changed, everywhere."""

import ntpath
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_ml.base.names import (
    ALLOWED,
    clashing,
    name_fault,
    require_names,
    require_new,
    require_portable,
    safe_name,
)
from tests.refusals import refused

#: What makes names bad, and pieces that must not.
PIECES = st.sampled_from(
    [
        *'<>:"/\\|?*. ',
        "\0",
        "\x1f",
        "con",
        "NUL",
        "Com1",
        "lpt9",
        "conin$",
        "a",
        "É",
        "e\u0301",
        "-",
    ]
)


@pytest.mark.parametrize(
    "name",
    [
        *("a:b", 'a"b', "a?", "a/b", "a\\b", "a|b", "a\nb", "a.", "a ", "..", ".", ""),
        *("CON", "con.txt", "nul .x", "aux", "COM1.tar.gz", "lpt0", "com\u00b9", "CONIN$", "prn. "),
        *("a" * 256, "é" * 128),
    ],
)
def test_names_that_some_system_refuses(name: str) -> None:
    assert name_fault(name)
    assert safe_name(name)[:200] == name[:200] or not name_fault(safe_name(name)[:200])


@pytest.mark.parametrize(
    "name", ["a", ".a", " a", "console", "com", "com10", "nula", "a.con", "a..b", "é" * 127, "a b"]
)
def test_names_that_every_system_takes(name: str) -> None:
    assert name_fault(name) is None
    assert safe_name(name) == name


def reserved(path: PureWindowsPath) -> bool:
    """What Python says of Windows' own names; 3.13 says it elsewhere."""
    if hasattr(ntpath, "isreserved"):
        return ntpath.isreserved(path)
    return path.is_reserved()


@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_name_made_safe_is_taken_everywhere_and_stays_as_it_is(name: str) -> None:
    safe = safe_name(name)
    assert name_fault(safe) is None
    assert safe_name(safe) == safe
    assert PureWindowsPath(safe).parts == (safe,), "Windows sees one name, without a drive"
    assert not reserved(PureWindowsPath("C:/x", safe))


@given(st.lists(PIECES, max_size=6).map("".join))
def test_what_is_no_fault_needs_no_change(name: str) -> None:
    if name_fault(name) is None and name.isascii():
        assert safe_name(name) == name


def test_names_that_some_system_takes_for_one() -> None:
    assert clashing(["a", "b", "a"]) is None
    assert clashing(["kd", "ce", "KD"]) == ("kd", "KD")
    assert clashing(["e\u0301.png", "\u00e9.png"]) == ("e\u0301.png", "\u00e9.png")
    assert clashing(["\u00c9.png", "e\u0301.png"]) == ("\u00c9.png", "e\u0301.png")


def test_a_table_of_names() -> None:
    require_names("experiments", ["kd", "ce_2"])
    with pytest.raises(ValueError, match=r"experiments\.NUL"):
        require_names("experiments", ["kd", "NUL"])
    with pytest.raises(ValueError, match="kd and KD"):
        require_names("experiments", ["kd", "KD"])


def test_paths_of_a_folder() -> None:
    require_portable(["a.json", "predictions/a.csv"], Path("x"))
    with refused("unportable-name", where="x", allowed=ALLOWED) as caught:
        require_portable(["predictions/aux.csv"], Path("x"))
    assert "'predictions/aux.csv'" in caught.value.what
    with refused("clashing-names"):
        require_portable(["a/b", "A/b"], Path("x"))


@pytest.mark.parametrize("name", ["sessions/a:b", "a?", "nul", "a."])
def test_a_new_folder_that_some_system_refuses(name: str) -> None:
    with refused("unportable-name"):
        require_new(Path(name))


@pytest.mark.parametrize("name", [".", "..", "/", "a/b", "x/.."])
def test_a_new_folder(name: str) -> None:
    assert require_new(Path(name)) == Path(name)
