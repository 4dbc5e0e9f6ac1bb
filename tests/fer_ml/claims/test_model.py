"""The claims file is checked at the door; JSON pointers are RFC 6901's."""

from pathlib import Path

import pytest

from fer_ml.claims.model import ClaimsFile, read_claims, resolve_pointer
from fer_ml.errors import FerError

CLAIM = """
  - id: {id}
    sentence: "Accuracy is {{value}}."
    asset: benchmark
    file: benchmark.json
    pointer: /a/b
"""
HEAD = "version: 1\ntitle: T\nclaims:"
GOOD = HEAD + CLAIM.format(id="one") + CLAIM.format(id="two")


def read(tmp_path: Path, text: str | bytes) -> ClaimsFile:
    path = tmp_path / "claims.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_claims(path)


def test_a_good_file(tmp_path: Path) -> None:
    held = read(tmp_path, GOOD)
    assert [claim.id for claim in held.claims] == ["one", "two"]
    assert held.claims[0].kind == "number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("two", "one"), "ids stand twice: one"),
        (GOOD.replace("version: 1", "version: 2"), "version"),
        (GOOD.replace("version: 1\n", ""), "version"),
        (GOOD + "    colour: red\n", "claims.1.colour"),
        (GOOD + "extra: 1\n", "extra"),
        (GOOD.replace("pointer: /a/b", "pointer: a/b"), "claims.0.pointer"),
        (GOOD.replace("id: two", "id: Two!"), "claims.1.id"),
        (GOOD.replace("    asset: benchmark\n", "", 1), "claims.0.asset"),
        (GOOD + "    decimals: 12\n", "claims.1.decimals"),
        (GOOD + "    kind: proportion\n", "n_pointer goes with"),
        (GOOD + "    n_pointer: /n\n", "n_pointer goes with"),
        (GOOD + "    kind: sum\n", "parts go with"),
        (GOOD + "    parts: [/n]\n", "parts go with"),
        (GOOD + "    expected: many\n", "claims.1.expected"),
        (HEAD + " []", "claims"),
        ("", "Input should be"),
        ("- 1", "Input should be"),
        ("a: [", "not valid YAML"),
        ("a: &x [1]\nb: *x", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system [echo]", "not valid YAML"),
        (b"\xff\xfe\xfd", "not valid YAML"),
        ("[" * 50_000, "not valid YAML"),
        ("a: " * 3 + "{" * 50_000, "not valid YAML"),
        (b"#" * 2_000_001, "2000001 bytes"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(FerError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert caught.value.where == str(tmp_path / "claims.yaml")


def test_nested_aliases_do_not_expand(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with pytest.raises(FerError, match="aliases"):
        read(tmp_path, "\n".join(lines))


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="cannot be read") as caught:
        read_claims(tmp_path / "no.yaml")
    assert caught.value.where == str(tmp_path / "no.yaml")


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FerError):
        read(tmp_path, GOOD + "    expected: 0.5\n    expected: 0.9\n")


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5000])
def test_a_value_that_yaml_cannot_make_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(FerError):
        read(tmp_path, GOOD + f"    expected: {value}\n")


@pytest.mark.parametrize(
    "field", ["kind: proportion\n    n_pointer: a/n", "kind: sum\n    parts: [a/n]"]
)
def test_every_pointer_starts_with_a_slash(tmp_path: Path, field: str) -> None:
    with pytest.raises(FerError):
        read(tmp_path, GOOD + f"    {field}\n")


#: The document and the examples of RFC 6901, section 5.
DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_rfc_6901(pointer: str, value: object) -> None:
    assert resolve_pointer(DOCUMENT, pointer) == value


def test_escapes_are_undone_in_the_right_order() -> None:
    assert resolve_pointer({"~1": "tilde one", "/": "slash"}, "/~01") == "tilde one"


@pytest.mark.parametrize(
    "pointer", ["/no", "/foo/2", "/foo/-", "/foo/-1", "/foo/x", "/foo/0/0", "/foo/", "/a/b", "/ /x"]
)
def test_what_points_to_nothing(pointer: str) -> None:
    with pytest.raises(KeyError):
        resolve_pointer(DOCUMENT, pointer)


@pytest.mark.parametrize("pointer", ["/foo/01", "/foo/\u0661", "/foo/\u00b9"])
def test_an_index_is_plain_digits(pointer: str) -> None:
    with pytest.raises(KeyError):
        resolve_pointer(DOCUMENT, pointer)
