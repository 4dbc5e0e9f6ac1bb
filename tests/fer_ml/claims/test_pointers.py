"""JSON pointers, by the examples of their standard."""

import pytest

from fer_ml.claims.pointers import resolve_pointer

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
