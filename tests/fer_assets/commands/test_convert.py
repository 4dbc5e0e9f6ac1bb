"""``fer convert`` takes a file by its ending, and asks for what the file does not say."""

from pathlib import Path

from fer_assets.commands.convert import convert
from fer_ml.bundles.bundle import load_bundle
from tests.fer_ml.bundles.tiny_tflite import ORDER, tflite
from tests.refusals import refused


def test_a_tflite_file_becomes_a_bundle(tmp_path: Path) -> None:
    old, new = tmp_path / "face.tflite", tmp_path / "models" / "face"
    old.write_bytes(tflite())
    with refused("missing-option", fix="add --classes"):
        convert(old, new)
    convert(old, new, classes=",".join(ORDER), std=0.25)
    assert load_bundle(new).card.preprocess.std == (0.25,) * 3
    with refused("output-exists", where=new):
        convert(old, new, classes=",".join(ORDER))


def test_a_checkpoint_needs_its_architecture(tmp_path: Path) -> None:
    with refused("missing-option", fix="add --architecture"):
        convert(tmp_path / "best.pt", tmp_path / "new.pt")
