"""What a profile is called in Dagster."""

import keyword

import dagster as dg
from hypothesis import given
from hypothesis import strategies as st

from fer_assets.keys import asset_key, asset_of, repository_name

#: What ``Profile.name`` allows; Dagster keeps some of it for itself.
PROFILES = st.one_of(
    st.sampled_from(["config", "output", "type", *filter(str.islower, keyword.kwlist)]),
    st.from_regex(r"[a-z0-9_]+", fullmatch=True),
)


@given(PROFILES)
def test_dagster_takes_every_name_that_a_profile_may_have(profile: str) -> None:
    name = repository_name(profile)
    assert dg.create_repository_using_definitions_args(name).name == name

    @dg.asset(key=asset_key(profile, "manifest/a"))
    def made() -> None: ...

    assert [asset_of(key) for key in made.keys] == ["manifest/a"]


@given(PROFILES, PROFILES)
def test_two_profiles_never_share_a_repository(one: str, other: str) -> None:
    assert (repository_name(one) == repository_name(other)) == (one == other)


def test_an_ordinary_name_stays_as_it_is() -> None:
    for profile in ("sample", "ferplus", "ferplus_best", "paper", "run_2"):
        assert repository_name(profile) == profile
