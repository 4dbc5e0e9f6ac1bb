"""Inference of a network over a set of faces."""

import numpy as np
import torch
from torch import nn

from fer_ml.training.views import FaceSet, to_input

#: Faces in one pass where no gradient is kept.
PREDICT_ROWS = 256


def predict(
    model: nn.Module,
    faces: FaceSet,
    batch_size: int = PREDICT_ROWS,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Return inference logits ``[N, C] float32`` of the centre views, in the order of the rows."""
    model.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(faces), batch_size):
            images = to_input(faces.images[start : start + batch_size], faces.preprocess, device)
            out.append(model(images).float().cpu().numpy())
    return np.concatenate(out)
