"""The reproducibility checklist of the interim report (appendix A.4), for any Markdown report."""

import re
from dataclasses import dataclass
from typing import Any

from fer_ml.training import RUN_FILES


@dataclass(frozen=True)
class Item:
    """One line of the checklist: something a report must state, as patterns that must all occur."""

    name: str
    asks: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The result for one item: the line (from 1) of each pattern, 0 where it does not occur."""

    item: Item
    lines: tuple[int, ...]

    @property
    def stated(self) -> bool:
        """Whether every pattern of the item occurs in the report."""
        return all(self.lines)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "item": self.item.name,
            "asks": self.item.asks,
            "stated": self.stated,
            "lines": sorted({line for line in self.lines if line}),
        }


#: The end of a line inside a paragraph.
_WRAPPED = re.compile(r"\n(?!\s*(?:[-*+|#>]|\d+[.)]\s|\n|$))")

CHECKLIST = (
    Item(
        "run_files",
        f"the files of each training run are named: {', '.join(RUN_FILES)}",
        tuple(re.escape(name) for name in RUN_FILES),
    ),
    Item(
        "soft_labels",
        "the soft labels used are named: softlabels.npz, softlabels_index.jsonl, "
        "and their folder or hash",
        (r"softlabels\.npz", r"softlabels_index\.jsonl", r"softlabels?/\w|\b[0-9a-f]{12,64}\b"),
    ),
    Item(
        "loading",
        "how training rows are loaded: worker counts, or processes",
        (r"\bworkers?\b|\bdata ?loader|\bload(s|ed|ing)?\b.*\bprocess(es)?\b",),
    ),
    Item(
        "resume",
        "what a resumed training does with its epochs",
        (r"\bresum\w+.*\bepoch|epoch.*\bresum\w+",),
    ),
)


def check_list(text: str) -> tuple[Finding, ...]:
    """Find which checklist items a report states, by its words; their truth is not checked."""
    joined = _WRAPPED.sub(" ", text)
    return tuple(
        Finding(item, tuple(_first(joined, text, pattern) for pattern in item.patterns))
        for item in CHECKLIST
    )


def _first(joined: str, text: str, pattern: str) -> int:
    match = re.search(pattern, joined, re.IGNORECASE)
    return text.count("\n", 0, match.start()) + 1 if match else 0
