"""For all tests."""

from collections.abc import Iterator

import pytest

#: Windows' refusal to make a symbolic link without a privilege.
_NO_PRIVILEGE = 1314


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    return (yield from _links_or_skip())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    return (yield from _links_or_skip())


def _links_or_skip() -> Iterator[None]:
    try:
        return (yield)
    except OSError as error:
        if getattr(error, "winerror", None) == _NO_PRIVILEGE:
            pytest.skip("symbolic links need a privilege here")
        raise
