"""What a verdict was judged by: the fields of a profile that its gates read.

A gate that a changed limit does not reach can be walked around. So nobody declares what a gate goes
by: the profile that it is given notes each field that is read, the receipts keep name and value,
and they count only as long as the profile still says the same.
"""

from collections.abc import Mapping
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

Model = TypeVar("Model", bound=BaseModel)


def watched(model: Model) -> tuple[Model, dict[str, Any]]:
    """``model``, and what has been read of it so far: JSON values by name (``demo.detector``)."""
    read: dict[str, Any] = {}
    return cast(Model, _Watched(model, "", read)), read


def still_says(model: BaseModel, read: Mapping[str, Any]) -> bool:
    """Whether ``model`` has those values now."""
    return all(_value(model, name) == value for name, value in read.items())


class _Watched:
    """Stands for a model: fields are noted when they are read, its own code runs on this."""

    def __init__(self, model: BaseModel, name: str, read: dict[str, Any]) -> None:
        self._model, self._name, self._read = model, name, read

    def __getattr__(self, name: str) -> Any:
        kind = type(self._model)
        full = f"{self._name}.{name}" if self._name else name
        if name in kind.model_fields:
            value = getattr(self._model, name)
            if isinstance(value, BaseModel):
                return _Watched(value, full, self._read)
            self._read[full] = to_jsonable_python(value)
            return value
        own = vars(kind).get(name)
        if isinstance(own, property) and own.fget is not None:
            return own.fget(self)
        if isinstance(own, FunctionType):
            return MethodType(own, self)
        # Of the base class's methods nobody can say which fields they read.
        raise AttributeError(f"{kind.__name__} has no field {name!r} that a gate may read")


_NOTHING = object()


def _value(model: BaseModel, name: str) -> Any:
    value: Any = model
    for part in name.split("."):
        value = getattr(value, part, _NOTHING)
    return _NOTHING if value is _NOTHING else to_jsonable_python(value)
