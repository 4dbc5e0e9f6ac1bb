"""The claims file: typed YAML, checked at the door."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fer_ml.errors import FerError

MAX_BYTES = 2_000_000


Pointer = Annotated[str, Field(pattern=r"^(/.*)?$")]


class Claim(BaseModel):
    """One sentence of a report and where its number comes from.

    ``sentence`` may hold ``{value}``. ``asset``, ``partition``, ``file`` and ``pointer`` (a JSON
    pointer, RFC 6901) name the number. ``expected`` is the printed value, which holds when the
    number rounds to it at ``decimals``; without it the claim states what the artifact holds.
    ``n_pointer`` names the n of a proportion, which then must be k/n for a whole k; ``parts`` are
    pointers whose numbers must add up to the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    sentence: str = Field(min_length=1)
    kind: Literal["number", "proportion", "sum"] = "number"
    asset: str
    partition: str | None = None
    file: str
    pointer: Pointer
    decimals: int = Field(default=0, ge=0, le=9)
    expected: float | None = Field(default=None, allow_inf_nan=False, ge=-1e15, le=1e15)
    n_pointer: Pointer | None = None
    parts: tuple[Pointer, ...] = ()

    @model_validator(mode="after")
    def _needs(self) -> "Claim":
        if (self.kind == "proportion") != (self.n_pointer is not None):
            raise ValueError("n_pointer goes with kind: proportion")
        if (self.kind == "sum") != bool(self.parts):
            raise ValueError("parts go with kind: sum")
        if self.expected is not None:
            exponent = Decimal(str(self.expected)).normalize().as_tuple().exponent
            if -int(exponent) > self.decimals:
                raise ValueError(f"expected {self.expected} has more than {self.decimals} decimals")
        return self


class ClaimsFile(BaseModel):
    """``claims/<profile>.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    title: str
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> "ClaimsFile":
        ids = [claim.id for claim in self.claims]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"ids stand twice: {', '.join(twice)}")
        return self


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few bytes of them expand to gigabytes) or repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(map(str, keys))) != len(keys):
            twice = sorted({str(key) for key in keys if keys.count(key) > 1})
            raise yaml.YAMLError(f"keys stand twice: {', '.join(twice)}: {node.start_mark}")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"aliases are not allowed here: {event.start_mark}")
        return super().compose_node(parent, index)


def read_claims(path: Path) -> ClaimsFile:
    """Read and check a claims file; ``FerError`` names the claim and field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FerError(
            f"claims file cannot be read: {error.strerror}",
            where=path,
            fix="write claims/<profile>.yaml; claims/sample.yaml is an example",
        ) from error
    if len(data) > MAX_BYTES:
        raise FerError(f"claims file has {len(data)} bytes", where=path, allowed=f"{MAX_BYTES}")
    try:
        held = yaml.load(data, _StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise FerError(f"not valid YAML: {error}", where=path) from error
    try:
        return ClaimsFile.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        raise FerError(
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=path,
            allowed="see docs/artifacts.md, 'Claims file'",
        ) from error


def resolve_pointer(document: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901); ``KeyError`` when it points to nothing."""
    value = document
    for raw in pointer.split("/")[1:]:
        token = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list):
            if not re.fullmatch(r"0|[1-9][0-9]{0,9}", token) or int(token) >= len(value):
                raise KeyError(pointer)
            value = value[int(token)]
        elif isinstance(value, dict) and token in value:
            value = value[token]
        else:
            raise KeyError(pointer)
    return value
