"""JSON pointers (RFC 6901)."""

import re
from typing import Any


def resolve_pointer(document: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer (RFC 6901); ``KeyError`` when there is none."""
    return walk_pointer(document, pointer)[-1]


def walk_pointer(document: Any, pointer: str) -> list[Any]:
    """Return every value along a JSON pointer, the document first, the target last."""
    path = [document]
    for raw in pointer.split("/")[1:]:
        token, value = raw.replace("~1", "/").replace("~0", "~"), path[-1]
        if isinstance(value, list):
            if not re.fullmatch(r"0|[1-9][0-9]{0,9}", token) or int(token) >= len(value):
                raise KeyError(pointer)
            path.append(value[int(token)])
        elif isinstance(value, dict) and token in value:
            path.append(value[token])
        else:
            raise KeyError(pointer)
    return path


def pointer_token(name: str) -> str:
    """Escape a key for use in a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")
