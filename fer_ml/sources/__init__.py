"""Raw datasets as their publishers lay them out, each read by one small adapter.

An adapter is a module of this package that defines ``ADAPTER``. It turns a folder into a
*listing*: one row for every sample that the publisher names, including those that must be left
out. An adapter drops nothing and decodes no image; what it cannot read becomes a row with a
``fault``. To add a source, add one module here and name it in a profile.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fer_ml.base.errors import FerError
from fer_ml.base.labels import LabelTable

#: Values of the listing's ``split`` column: the publisher's own split, or none given.
PUBLISHER_SPLITS: tuple[str, ...] = ("train", "val", "test", "unassigned")
#: What a publisher may say of the person, in words of its own. The benchmark compares these groups.
ATTRIBUTES: tuple[str, ...] = ("age", "sex", "ethnicity")


@dataclass(frozen=True)
class Option:
    """One option of an adapter. Its value is text that ``pattern`` must match completely.

    ``allowed`` describes the accepted values in words.
    """

    meaning: str
    allowed: str
    pattern: str


@dataclass(frozen=True)
class Adapter:
    """The reader of one publisher's layout.

    ``read(root, labels, **options)`` returns the listing. ``labels`` maps the publisher's labels;
    it is ``None`` if labels come from votes, and then ``read`` takes no ``labels``.
    ``fits(root, **options)`` tells quickly whether a folder has this layout.
    """

    name: str
    title: str
    layout: str
    read: Callable[..., Any]
    fits: Callable[..., bool]
    labels: LabelTable | None = None
    options: Mapping[str, Option] = field(default_factory=dict)

    def listing(self, root: Path, meanings: Mapping[str, str] | None = None, **options: str) -> Any:
        """Read the dataset at ``root`` to a polars frame with exactly ``listing_schema()``.

        ``meanings`` replaces the adapter's label table. ``FerError`` for an unknown option, and if
        ``root`` is not such a dataset (missing index file, missing column, empty folder). Faults
        of single rows are recorded in their ``fault``.
        """
        self.check_options(options)
        table = self.table(meanings)
        try:
            return (
                self.read(root, **options) if table is None else self.read(root, table, **options)
            )
        except FerError as error:
            hint = "; ".join(_looks(root, self))
            if not hint:
                raise
            fix = "; ".join(filter(None, (error.fix, hint)))
            raise FerError(
                error.what, code=error.code, where=error.where, allowed=error.allowed, fix=fix
            ) from error

    def table(self, meanings: Mapping[str, str] | None = None) -> LabelTable | None:
        """Return the label table: of the profile's ``meanings`` if given, else the adapter's."""
        if not meanings:
            return self.labels
        if self.labels is None:
            raise FerError(
                "this adapter takes no labels: it derives each label from the votes",
                code="labels-not-allowed",
                where=f"source adapter {self.name}",
                fix="remove labels from the source in the profile or fer.toml",
            )
        return LabelTable(meanings)

    def check(self, root: Path, meanings: Mapping[str, str], options: Mapping[str, str]) -> None:
        """Raise ``FerError`` if settings or folder clearly do not fit this adapter."""
        self.check_options(options)
        self.table(meanings)
        if not self.fits(root, **options):
            hint = _looks(root, self) or ["point the source at the folder that holds it"]
            raise FerError(
                f"this is not {self.layout}",
                code="wrong-adapter",
                where=root,
                allowed=self.name,
                fix="; ".join(hint),
            )

    def check_options(self, options: Mapping[str, str]) -> None:
        """Raise ``FerError`` with the allowed ones if an option's name or value is invalid."""
        for name, value in options.items():
            if name not in self.options:
                raise FerError(
                    f"unknown option {name!r}",
                    code="unknown-option",
                    where=f"source adapter {self.name}",
                    allowed=", ".join(sorted(self.options)) or "no option at all",
                    fix="correct the source's options in the profile or fer.toml",
                )
            option = self.options[name]
            if not isinstance(value, str) or not re.fullmatch(option.pattern, value):
                raise FerError(
                    f"option {name} cannot be {value!r}",
                    code="invalid-option",
                    where=f"source adapter {self.name}",
                    allowed=option.allowed,
                    fix="correct the source's options in the profile or fer.toml",
                )


def listing_schema() -> dict[str, Any]:
    """Return the columns of a listing with their polars types.

    - ``where``: the place in the publisher's files, such as ``label.lst:12``
    - ``file``: path of the image relative to the root, with ``/``; null when pixels are inline
    - ``inline_png``: PNG bytes for sources that ship pixels in a table, else null
    - ``native_label``: the publisher's label as text; ``label``: one of ``CLASSES`` or null
    - ``split``: one of ``PUBLISHER_SPLITS``, or the publisher's unknown word (with a ``fault``)
    - ``confidence``: the publisher's own figure, unit as published, else null
    - ``face_id``: index of the face in its photo, else null
    - ``bbox_left/top/right/bottom``: pixels in the photo, right and bottom exclusive; all or none
    - ``votes``: annotators' votes in the order of ``CLASSES``, else null
    - ``weight``: how much the row counts in training, 0 or more, else null
    - ``neg_label``: one of ``CLASSES`` that the face does not show, else null
    - ``age``, ``sex``, ``ethnicity``: the publisher's word for a group of people, else null
    - ``excluded``: one of ``labels.EXCLUSIONS`` when the label is understood and left out
    - ``fault``: what is wrong with the row, as ``kind: detail``, for example
      ``bad label: 'hapy'``, ``malformed line: 5 of 8 fields``, ``unknown split: 'dev'``
    """
    import polars as pl

    return {
        "where": pl.String,
        "file": pl.String,
        "inline_png": pl.Binary,
        "native_label": pl.String,
        "label": pl.String,
        "split": pl.String,
        "confidence": pl.Float64,
        "face_id": pl.Int64,
        "bbox_left": pl.Int64,
        "bbox_top": pl.Int64,
        "bbox_right": pl.Int64,
        "bbox_bottom": pl.Int64,
        "votes": pl.List(pl.Float64),
        "weight": pl.Float64,
        "neg_label": pl.String,
        **dict.fromkeys(ATTRIBUTES, pl.String),
        "excluded": pl.String,
        "fault": pl.String,
    }


@cache
def adapters() -> dict[str, Adapter]:
    """Return every adapter of this package, by name."""
    by_name = {}
    for module in pkgutil.iter_modules(__path__):
        adapter = getattr(importlib.import_module(f"{__name__}.{module.name}"), "ADAPTER", None)
        for one in adapter if isinstance(adapter, tuple) else (adapter,):
            if isinstance(one, Adapter):
                by_name[one.name] = one
    return by_name


def get_adapter(name: str) -> Adapter:
    """Return the adapter called ``name``; ``FerError`` lists the known names otherwise."""
    known = adapters()
    if name not in known:
        raise FerError(
            f"unknown source adapter {name!r}",
            code="unknown-adapter",
            allowed=", ".join(sorted(known)),
            fix="correct the adapter in the profile or fer.toml, or add a module to fer_ml/sources",
        )
    return known[name]


def _looks(root: Path, wanted: Adapter) -> list[str]:
    """Return hints: adapters that fit ``root``, and folders near it that fit ``wanted``."""
    hints = []
    if not _fits(wanted, root):
        hints = [
            f"this looks like {other.layout}: adapter {other.name}?"
            for other in adapters().values()
            if _fits(other, root)
        ]
    return hints or [f"the folder may be {near}" for near in _near(root) if _fits(wanted, near)][:3]


def _near(root: Path) -> Iterator[Path]:
    """Yield the first folders in ``root``, and its parent folder."""
    with suppress(OSError):
        yield from [path for path in sorted(root.iterdir())[:50] if path.is_dir()]
    yield root.parent


def _fits(adapter: Adapter, root: Path) -> bool:
    try:
        return adapter.fits(root)
    except OSError:
        return False


def others_of(adapter: Adapter, root: Path, labels: set[str]) -> list[str]:
    """Return the names of other adapters that fit the folder ``root`` and its ``labels``."""
    return [
        other.name
        for other in adapters().values()
        if other.name != adapter.name
        and (other.labels is None or other.labels.is_of(labels))
        and _fits(other, root)
    ]
