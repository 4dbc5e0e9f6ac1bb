"""The JSON schema of OpenLineage events, from the classes that its project makes of its schema.

The package of OpenLineage's client carries no schema file; each class of it says by ``_get_schema``
of which definition it was generated, and its fields are that definition's properties.
"""

import importlib
import pkgutil
import types
import typing
from enum import Enum
from typing import Any

import attr
from jsonschema import Draft202012Validator
from openlineage.client import generated
from openlineage.client.generated.base import RunEvent

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _classes() -> dict[str, type]:
    """Every class by the address of its definition."""
    modules = [
        importlib.import_module(f"{generated.__name__}.{module.name}")
        for module in pkgutil.iter_modules(generated.__path__)
    ]
    found = {
        kind._get_schema(): kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and hasattr(kind, "_get_schema")
    }
    assert len(found) > 50
    return found


DEFINITIONS = _classes()


def _schema(hint: Any) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is Any:
        return {}
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # What may be left out is None there; written, it is never null.
        kinds = [_schema(kind) for kind in inner if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if origin is list:
        return {"type": "array", "items": _schema(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1])}
    if issubclass(hint, Enum):
        return {"enum": [value.value for value in hint]}
    hints = typing.get_type_hints(hint)
    fields = [field for field in attr.fields(hint) if not field.name.startswith("__")]
    told = {field.name for field in fields if field.name in ("_producer", "_schemaURL")}
    needed = {field.name for field in fields if field.default is attr.NOTHING} | told
    return {
        "type": "object",
        "properties": {field.name: _schema(hints[field.name]) for field in fields},
        "required": sorted(needed),
    }


def violations(event: dict[str, Any]) -> list[str]:
    """Where an event is not as the specification says, each facet by the definition it names."""
    found = _held(RunEvent, event, "event")
    owners = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    for owner in owners:
        for held in ("facets", "inputFacets", "outputFacets"):
            for name, facet in owner.get(held, {}).items():
                found += _held(DEFINITIONS[facet["_schemaURL"]], facet, name)
    return found


def _held(kind: type, value: Any, what: str) -> list[str]:
    faults = Draft202012Validator(_schema(kind)).iter_errors(value)
    return [f"{what}{fault.json_path.removeprefix('$')}: {fault.message}" for fault in faults]
