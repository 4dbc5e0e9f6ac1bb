"""For all tests."""

import os
from collections.abc import Iterator

import pytest

# A training takes fewer threads on a busy machine, and two numbers of threads round differently:
# tests that compare bytes fix the number, before anything loads torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
