"""The tiny training of the training's own tests."""

from tests.fer_ml.training.conftest import faces, job_of, one_thread, recipe, soft_of

__all__ = ["faces", "job_of", "one_thread", "recipe", "soft_of"]
