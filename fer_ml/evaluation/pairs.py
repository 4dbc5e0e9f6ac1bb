"""The paired differences of a benchmark's models, the rows of ``pairs.csv``."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from fer_ml.evaluation.models import Model
from fer_ml.evaluation.sets import EvaluationSet
from fer_ml.metrics.comparability import prepared_apart, split_tables
from fer_ml.metrics.resampling import (
    PAIRED,
    Resampled,
    holm,
    mcnemar,
    paired_difference,
    resampled_metrics,
)


def pair_rows(
    part: EvaluationSet,
    y: np.ndarray,
    models: list[Model],
    cells: Mapping[str, Mapping[str, Any]],
    logits: Mapping[str, np.ndarray],
    sums: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Compare each two models that may be compared, on the same rows with labels ``y [N]``.

    By model's name: its entry of the benchmark, ``logits [N, 7]``, and the ``group_sums`` of its
    scaled logits. The comparison is about these very networks, not their training methods.
    ``p_holm`` and ``mcnemar_p_holm`` are corrected for the number of pairs of a family, for each
    metric on its own.
    """
    resampled = resampled_metrics(np.stack([sums[model.name] for model in models]))
    correct = [logits[model.name].argmax(axis=1) == y for model in models]
    rows = []
    for pairs in families(models, cells):
        for (a, b), figures in zip(pairs, _figures(pairs, resampled, correct), strict=True):
            one, two = models[a], models[b]
            head = {
                "set": part.name,
                "split": part.split,
                "n": len(y),
                "selection_split": bool(one.selected_on(part.manifest, part.split)),
                "same_preprocess": not prepared_apart(cells[one.name], cells[two.name]),
                "model_a": one.name,
                "model_b": two.name,
            }
            rows += [{**head, **figure} for figure in figures]
    return rows


def families(
    models: list[Model], cells: Mapping[str, Mapping[str, Any]]
) -> list[list[tuple[int, int]]]:
    """Return the pairs of places in ``models`` that are compared, in families for Holm.

    The models of a table are a family. A model from elsewhere has a preprocessing that is part of
    it: the last family pairs it with models that only for this reason are in another table.
    """
    tables = {name: at for at, table in enumerate(split_tables(cells)) for name in table.names}
    found: dict[int, list[tuple[int, int]]] = {}
    for a, b in itertools.combinations(range(len(models)), 2):
        one, two = models[a], models[b]
        foreign = one.from_elsewhere or two.from_elsewhere
        if tables[one.name] == tables[two.name]:
            found.setdefault(tables[one.name], []).append((a, b))
        elif foreign and prepared_apart(cells[one.name], cells[two.name]):
            found.setdefault(len(tables), []).append((a, b))
    return [found[place] for place in sorted(found)]


def _figures(
    pairs: list[tuple[int, int]], resampled: Resampled, correct: list[np.ndarray]
) -> list[list[dict[str, Any]]]:
    """Return for each pair of a family its figures, one row for each metric."""
    tests = [mcnemar(correct[a], correct[b]) for a, b in pairs]
    gaps = [paired_difference(resampled, a, b) for a, b in pairs]
    by_right = holm([test.p_value for test in tests])
    by_metric = {metric: holm([gap[metric].p_value for gap in gaps]) for metric in PAIRED}
    return [
        [
            {
                "metric": metric,
                "difference": gap[metric].value,
                "low": gap[metric].low,
                "high": gap[metric].high,
                "p_value": gap[metric].p_value,
                "p_holm": by_metric[metric][place],
                "mcnemar_only_a": test.only_a,
                "mcnemar_only_b": test.only_b,
                "mcnemar_p": test.p_value,
                "mcnemar_p_holm": by_right[place],
            }
            for metric in PAIRED
        ]
        for place, (gap, test) in enumerate(zip(gaps, tests, strict=True))
    ]
