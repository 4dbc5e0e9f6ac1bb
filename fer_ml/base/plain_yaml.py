"""YAML read as mappings, lists and text: a scalar stays exactly as it was written.

YAML's own rules would turn ``0.740`` into 0.74, ``no`` into false and ``2024-01-02`` into a date; a
printed number must keep its digits. Anchors, aliases (a few bytes of them expand to gigabytes),
tags, repeated keys and several documents are refused.
"""

from collections.abc import Iterator
from typing import Any

import yaml

#: libyaml's parser is ten times faster than the one in Python; both give the same events.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH = 20
#: More text takes longer to parse than anybody waits; no file of claims or classes comes near it.
MAX_BYTES = 4 << 20
_NULLS = ("", "~", "null")


def read_plain(data: bytes) -> Any:
    """Parse YAML to dictionaries, lists, ``str`` and ``None`` (an unquoted ``null``).

    Raises ``ValueError`` for invalid YAML and for the features that this module refuses.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has {len(data):,} bytes, at most {MAX_BYTES:,} are allowed")
    try:
        events = _allowed(yaml.parse(data, Loader=_LOADER))
        first = next(events, None)
        value = None if first is None else _value(first, events, 0)
        if next(events, None) is not None:
            raise ValueError("it holds several documents")
        return value
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _allowed(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    """Yield the events of plain values; refuse anchors, aliases, tags and further documents."""
    for event in events:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"anchors and aliases are not allowed{_at(event)}")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag is not None:
                raise ValueError(f"tags such as {event.tag} are not allowed{_at(event)}")
            yield event
        elif isinstance(event, yaml.CollectionEndEvent):
            yield event


def _value(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Any:
    if isinstance(event, yaml.ScalarEvent):
        plain = not event.style
        return None if plain and event.value in _NULLS else event.value
    if depth == MAX_DEPTH:
        raise ValueError(f"deeper than {MAX_DEPTH} levels{_at(event)}")
    if isinstance(event, yaml.SequenceStartEvent):
        return [_value(item, events, depth + 1) for item in _until_end(events)]
    mapping: dict[str, Any] = {}
    for key in _until_end(events):
        if not isinstance(key, yaml.ScalarEvent):
            raise ValueError(f"a key must be text{_at(key)}")
        if key.value in mapping:
            raise ValueError(f"key {key.value!r} stands twice{_at(key)}")
        mapping[key.value] = _value(next(events), events, depth + 1)
    return mapping


def _until_end(events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            return
        yield event


def _at(event: yaml.Event) -> str:
    return f", line {event.start_mark.line + 1}" if event.start_mark else ""
