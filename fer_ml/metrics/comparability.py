"""Rules on which evaluation results may share a table. Needs only the standard library."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fer_ml.base.errors import FerError

#: What two cells of the benchmark must agree in before their numbers share a table.
KEYS = (
    "manifest_sha256",
    "split",
    "rows",
    "n",
    "preprocess_sha256",
    "views",
    "selection_split",
)


def unequal_budgets(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a note with the entries' epochs if they differ, else an empty string.

    A longer training makes any method look better, so a table of such entries shows the note.
    Entries without ``epochs`` are ignored.

    >>> unequal_budgets({"ce": {"epochs": 10}, "kd": {"epochs": 20}})
    'unequal budgets, in epochs: ce 10, kd 20'
    """
    epochs = {name: entry["epochs"] for name, entry in entries.items() if entry.get("epochs")}
    if len(set(epochs.values())) < 2:
        return ""
    return "unequal budgets, in epochs: " + ", ".join(f"{n} {e}" for n, e in epochs.items())


def networks_note(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence with the network behind each entry that names one; empty if none does.

    A teacher's place (RN18, B3, CNXT) may hold another network than its name says.

    >>> networks_note({"teacher_B3": {"architecture": "resnet18"}, "ensemble": {}})
    'Networks: teacher_B3 resnet18.'
    """
    found = [f"{n} {e['architecture']}" for n, e in entries.items() if e.get("architecture")]
    return f"Networks: {', '.join(found)}." if found else ""


def comparable(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the reasons why two entries must not share a table; an empty list if they may.

    >>> here = dict.fromkeys(KEYS, 1)
    >>> comparable(here, {**here, "n": 2})
    ['n: 1 and 2']
    """
    return [f"{key}: {a[key]} and {b[key]}" for key in KEYS if a[key] != b[key]]


def prepared_apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two entries are apart for one reason: their models prepare faces in other ways.

    >>> here = dict.fromkeys(KEYS, 1)
    >>> prepared_apart(here, {**here, "preprocess_sha256": 2}), prepared_apart(here, here)
    (True, False)
    """
    return [key for key in KEYS if a[key] != b[key]] == ["preprocess_sha256"]


@dataclass(frozen=True)
class Table:
    """The names of entries that may share a table, and why they are apart from the first table."""

    names: tuple[str, ...]
    why_apart: tuple[str, ...]


def split_tables(entries: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Divide ``entries`` into the fewest tables, ordered by each table's first entry.

    ``why_apart`` compares a table with the first one, and is empty for the first.

    >>> here = dict.fromkeys(KEYS, 1)
    >>> [table.names for table in split_tables({"a": here, "b": {**here, "n": 2}, "c": here})]
    [('a', 'c'), ('b',)]
    """
    together: dict[tuple[Any, ...], list[str]] = {}
    for name, entry in entries.items():
        together.setdefault(tuple(entry[key] for key in KEYS), []).append(name)
    tables = list(together.values())
    return [
        Table(tuple(names), tuple(comparable(entries[tables[0][0]], entries[names[0]])))
        for names in tables
    ]


def require_one_table(entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``FerError`` with the reasons if ``entries`` may not all share one table.

    >>> require_one_table({"a": dict.fromkeys(KEYS, 1), "b": dict.fromkeys(KEYS, 1)})
    """
    first, *others = split_tables(entries)
    if others:
        raise FerError(
            "these numbers do not belong in one table: "
            + "; ".join(
                f"{_listed(table.names)}: {', '.join(table.why_apart)}" for table in others
            ),
            code="not-comparable",
            where=f"compared with {_listed(first.names)}",
            fix="measure all of them on the same rows in the same way, or show them apart",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def tables_of(benchmark: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(caption, cell by model)`` for each table of a ``benchmark.json``.

    A deduplicated set that has the same rows as the official one is skipped.

    >>> cell = {**dict.fromkeys(KEYS, ""), "split": "test", "n": 9}
    >>> held = {"tables": {"t": []}, "same_rows": [], "entries": {"ce": {"t": cell}}}
    >>> [name for name, _ in tables_of(held)]
    ['t: test, n = 9']
    """
    for name in benchmark["tables"]:
        if name in benchmark["same_rows"]:
            continue
        cells = {model: sets[name] for model, sets in benchmark["entries"].items()}
        for table in split_tables(cells):
            table_cells = {model: cells[model] for model in table.names}
            apart = f"; apart because of {', '.join(table.why_apart)}" if table.why_apart else ""
            budgets = unequal_budgets(table_cells)
            note = f"; {budgets}" * bool(budgets)
            yield caption(name, table_cells[table.names[0]]) + apart + note, table_cells


def caption(name: str, entry: Mapping[str, Any]) -> str:
    """Return a caption: evaluation set, split, row count, and whether models were selected on it.

    >>> caption("faces", {"split": "val", "n": 1200, "selection_split": True})
    'faces: val, n = 1,200; models were selected on these rows'
    """
    note = "; models were selected on these rows" if entry["selection_split"] else ""
    looked = look_note(entry)
    note += f"; {looked}" * bool(looked)
    return f"{name}: {entry['split']}, n = {entry['n']:,}{note}"


def look_note(entry: Mapping[str, Any]) -> str:
    """Return the warning for an evaluation set that was used before a decision; '' for any other.

    >>> look_note({"looked_before": {"since": "2026-01-02T03:04", "decided": ["ensemble"]}})
    'looked at before (since 2026-01-02): ensemble decided after'
    """
    look = entry.get("looked_before")
    if not look:
        return ""
    first, more = look["decided"][:3], len(look["decided"]) - 3
    others = f" and {more} more" if more > 0 else ""
    decided = ", ".join(first) + others
    return f"looked at before (since {look['since'][:10]}): {decided} decided after"
