"""What a test says of a refusal: its code and its fields, and never its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fer_ml.base.errors import FerError


@contextmanager
def refused(code: str, **fields: object) -> Iterator[pytest.ExceptionInfo[FerError]]:
    """Expect a ``FerError`` with this code and, where they are named, these fields.

    ``fields`` are ``where``, ``allowed`` and ``fix``; a value is compared as text.
    """
    with pytest.raises(FerError) as caught:
        yield caught
    error = caught.value
    assert error.code == code, error
    for name, value in fields.items():
        expected = None if value is None else str(value)
        assert getattr(error, name) == expected, error
