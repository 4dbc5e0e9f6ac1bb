"""The claims file's YAML: text as it was written, and none of YAML's own cleverness."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_ml.base.plain_yaml import MAX_DEPTH, read_plain

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
TREES = st.recursive(
    TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)


def test_scalars_keep_their_text() -> None:
    held = read_plain(b"a: 0.740\nb: no\nc: 2024-01-02\nd: 1_000\ne: '~'\nf: ~\ng:\nh: null\n")
    assert held == {
        "a": "0.740",
        "b": "no",
        "c": "2024-01-02",
        "d": "1_000",
        "e": "~",
        "f": None,
        "g": None,
        "h": None,
    }


@settings(max_examples=200)
@given(TREES)
def test_what_pyyaml_writes_is_read_back(tree: Any) -> None:
    # Every scalar is quoted by the writer, so that only structure and text are compared.
    text = yaml.dump(tree, default_style='"', allow_unicode=True)
    assert read_plain(text.encode()) == tree


@settings(max_examples=300)
@given(st.binary(max_size=60) | TEXT.map(str.encode))
def test_any_bytes_give_a_value_or_a_value_error(data: bytes) -> None:
    try:
        read_plain(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "anchors and aliases"),
        ("a: &x 1", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [echo]", "tags such as"),
        ("a: !!int 3", "tags such as"),
        ("a: 1\na: 2", "key 'a' stands twice, line 2"),
        ("? [a]\n: 1", "a key must be text"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("a: [", "line"),
        ("<<: {a: 1}\n<<: {b: 2}", "stands twice"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plain(text.encode())


@pytest.mark.threat(
    "YAML expands or builds objects",
    "One reader refuses anchors, aliases, tags and repeated keys; at most 20 levels and 4 MiB.",
)
def test_aliases_that_would_fill_the_memory_are_refused_at_the_first() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with pytest.raises(ValueError, match="anchors and aliases are not allowed, line 1"):
        read_plain("\n".join(lines).encode())


@pytest.mark.parametrize("opening", ["[", "{a: "])
@pytest.mark.threat("YAML expands or builds objects")
def test_depth_is_bounded(opening: str) -> None:
    # libyaml, which reads ahead, has a limit of its own.
    with pytest.raises(ValueError, match=f"deeper than {MAX_DEPTH} levels|maximum nesting depth"):
        read_plain((opening * 50_000).encode())


def test_the_size_is_bounded_before_anything_is_parsed() -> None:
    with pytest.raises(ValueError, match="4,194,305 bytes"):
        read_plain(b"#" * ((4 << 20) + 1))
    assert read_plain(b"#" * (4 << 20)) is None
