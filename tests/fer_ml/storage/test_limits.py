"""What is read of a profile is what a verdict was judged by, and no change of it is missed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from fer_ml.recipes.profiles import Demo, Profile, sample
from fer_ml.storage.limits import still_says, watched


@pytest.fixture
def profile() -> Profile:
    return sample()


def test_nothing_read_holds_for_every_profile(profile: Profile) -> None:
    _, read = watched(profile)
    assert read == {}
    assert still_says(profile, read)


def test_a_field_in_a_part_is_noted_by_its_whole_name(profile: Profile) -> None:
    seen, read = watched(profile)
    assert seen.demo.p95_limit_ms == profile.demo.p95_limit_ms
    assert read == {"demo.p95_limit_ms": profile.demo.p95_limit_ms}
    other = profile.model_copy(
        update={"demo": profile.demo.model_copy(update={"detector": "auto"})}
    )
    assert still_says(other, read), "what was not read may change"
    slow = profile.demo.model_copy(update={"p95_limit_ms": 1.0})
    assert not still_says(profile.model_copy(update={"demo": slow}), read)


def test_properties_and_methods_are_read_through(profile: Profile) -> None:
    seen, read = watched(profile)
    assert seen.source("ferplus") == profile.source("ferplus")
    assert list(seen.curated) == list(profile.curated)
    assert set(read) == {"sources", "curations"}
    fewer = profile.model_copy(update={"sources": profile.sources[1:]})
    assert not still_says(fewer, read)


def test_what_cannot_be_followed_is_refused(profile: Profile) -> None:
    seen, read = watched(profile)
    for name in ("model_dump", "model_copy", "no_such_field"):
        with pytest.raises(AttributeError, match=name):
            getattr(seen, name)
    assert read == {}


def test_a_field_that_is_gone_says_nothing(profile: Profile) -> None:
    assert not still_says(profile, {"demo.no_such_field": 1})
    assert not still_says(profile, {"no_such_part.p95_limit_ms": 1})


def _leaves(model: BaseModel, name: str = "") -> list[str]:
    found = []
    for field in type(model).model_fields:
        value, full = getattr(model, field), f"{name}.{field}" if name else field
        found += _leaves(value, full) if isinstance(value, BaseModel) else [full]
    return found


def _get(model: object, name: str) -> object:
    for part in name.split("."):
        model = getattr(model, part)
    return model


@given(st.sets(st.sampled_from(_leaves(sample())), min_size=1))
def test_exactly_what_was_read_is_noted(names: set[str]) -> None:
    profile = sample()
    seen, read = watched(profile)
    for name in sorted(names):
        assert _get(seen, name) == _get(profile, name)
    assert set(read) == names
    assert still_says(profile, read)


@given(st.floats(1, 1000), st.floats(1, 1000))
def test_a_value_holds_while_it_is_the_same(one: float, two: float) -> None:
    seen, read = watched(Demo(p95_limit_ms=one))
    assert seen.p95_limit_ms == one
    assert still_says(Demo(p95_limit_ms=two), read) == (one == two)
