"""Logits by sample."""

import numpy as np
import pytest

from fer_ml.distillation.teacher_logits import Logits
from fer_ml.errors import FerError


def test_logits_are_looked_up_by_sample_and_a_missing_one_is_refused() -> None:
    held = Logits(np.arange(21.0).reshape(3, 7), ("a", "b", "c"))
    assert held.of(["c", "a", "c"])[:, 0].tolist() == [14.0, 0.0, 14.0]
    with pytest.raises(FerError, match="2 of 3 faces have no logits, first x"):
        held.of(["x", "b", "y"])
