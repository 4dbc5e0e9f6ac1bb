"""Inference in the order of the rows."""

from collections.abc import Callable

import numpy as np
import torch

from fer_ml.recipes.training import Training
from fer_ml.training.models import build_model
from fer_ml.training.prediction import predict
from fer_ml.training.views import FaceSet

Make = Callable[..., FaceSet]


def test_prediction_is_in_the_rows_order_whatever_the_batch(recipe: Training, faces: Make) -> None:
    torch.manual_seed(0)
    model, data = build_model(recipe), faces(13)
    whole = predict(model, data)
    assert whole.shape == (13, 7)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(predict(model, data, batch_size=4), whole, atol=1e-5)
    assert not model.training
