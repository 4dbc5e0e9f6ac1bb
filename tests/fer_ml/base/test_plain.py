"""No value of a file is turned into another."""

import json

import pytest
from pydantic import ValidationError

from fer_ml.base.plain import Plain
from fer_ml.recipes.builtin import sample
from fer_ml.recipes.profile import Profile


class Held(Plain):
    count: int
    share: float
    flag: bool
    names: tuple[str, ...]


GOOD = {"count": 1, "share": 2, "flag": True, "names": ["a"]}


def test_a_list_is_a_tuple_and_a_whole_number_a_number() -> None:
    assert Held.from_plain(GOOD) == Held(count=1, share=2.0, flag=True, names=("a",))


@pytest.mark.parametrize(
    "change",
    [
        {"count": True},
        {"count": "1"},
        {"count": 1.0},
        {"share": "2"},
        {"share": False},
        {"flag": 1},
        {"flag": "yes"},
        {"names": "a"},
        {"names": [1]},
        {"more": 1},
    ],
)
def test_any_other_value_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Held.from_plain({**GOOD, **change})
    with pytest.raises(ValidationError):
        Held.model_validate_json(json.dumps({**GOOD, **change}))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("floor_macro_f1",), "0.5"),
        (("floor_macro_f1",), True),
        (("drawn",), 1),
        (("students", "ce", "epochs"), "20"),
        (("students", "ce", "lr"), True),
        (("preprocess", "size"), 48.0),
    ],
)
def test_no_field_of_a_profile_is_coerced(path: tuple[str, ...], value: object) -> None:
    held = sample().model_dump(mode="json")
    inside = held
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with pytest.raises(ValidationError):
        Profile.from_plain(held)
