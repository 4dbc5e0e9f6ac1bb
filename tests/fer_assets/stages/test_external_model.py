"""A model from elsewhere is the bytes that the profile names."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fer_assets.stages import external_model
from fer_assets.stages.external_model import ExternalRecipe
from fer_ml.base.reading import sha256_file
from fer_ml.recipes.builtin import sample


def at(path: Path) -> Any:
    """What ``files`` asks of a pipeline: where a model lies."""
    return SimpleNamespace(model_path=lambda name: path)


def test_the_record_names_the_files_and_how_faces_are_prepared(tmp_path: Path) -> None:
    profile = sample()
    assert ExternalRecipe.of(profile, "any").recorded() == {
        "preprocess": profile.preprocess.plain()
    }
    path = tmp_path / "any.onnx"
    assert external_model.files(at(path), "any") == {"files": None}
    path.write_bytes(b"x")
    assert external_model.files(at(path), "any") == {"files": {"model.onnx": sha256_file(path)}}
