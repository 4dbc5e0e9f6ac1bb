"""The student that ships: small, whole, traceable, and at work on a real clip."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo_app.shipped import SHIPPED
from fer_ml.bundles.bundle import MODEL_FILE, load_bundle
from fer_ml.bundles.model_card import as_markdown
from fer_ml.bundles.provenance import CHAIN_FILE, verify_chain
from fer_ml.recipes.builtin import ferplus_best
from fer_ml.recipes.preprocess import FRAMES

LIMIT_BYTES = 9_000_000


def test_its_bytes_close_the_chain_down_to_the_raw_folders() -> None:
    chain = verify_chain(load_bundle(SHIPPED))
    assert [named.asset for named in chain.raw] == ["raw/ferplus", "raw/fer2013"]
    made = {link.label for link in chain.links}
    assert {"classification_manifest", "hq_train_manifest", "softlabels", "benchmark"} <= made
    assert chain.top.asset == "small_bundles"


def test_it_is_small_and_knows_no_machine() -> None:
    assert (SHIPPED / MODEL_FILE).stat().st_size <= LIMIT_BYTES
    told = (SHIPPED / CHAIN_FILE).read_text() + (SHIPPED / "card.json").read_text()
    assert not re.search(r'"(/|~|[A-Z]:\\)', told)


def test_its_card_says_data_licence_use_and_misuse() -> None:
    card = load_bundle(SHIPPED).card
    assert "FER+" in card.data and "research" in card.licence
    assert "Not for decisions about people" in card.intended_use
    held = card.metrics["test_all_sources"]
    assert not held["selection_split"]
    assert set(held["per_class_f1"]) == set(card.classes)
    assert {f"f1_{name}" for name in card.classes} | {"macro_f1", "ece"} <= set(held["intervals"])


def test_it_is_served_as_it_was_trained() -> None:
    card = load_bundle(SHIPPED).card
    assert card.preprocess == ferplus_best().preprocess
    assert card.frames == FRAMES
    assert hashlib.sha256((SHIPPED / "card.json").read_bytes()).hexdigest() == (
        load_bundle(SHIPPED).sha256
    )


def test_its_page_is_made_of_its_card() -> None:
    bundle = load_bundle(SHIPPED)
    assert (SHIPPED / "README.md").read_text() == as_markdown(bundle.card, verify_chain(bundle))


def test_it_answers_with_probabilities() -> None:
    bundle = load_bundle(SHIPPED)
    size = bundle.card.preprocess.size
    faces = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    probs = bundle.probabilities(faces)
    assert probs.shape == (3, 7)
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)


def test_a_face_and_its_mirror_image_have_one_answer() -> None:
    bundle = load_bundle(SHIPPED)
    size = bundle.card.preprocess.size
    faces = np.random.default_rng(1).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(faces[:, :, ::-1])
    np.testing.assert_allclose(bundle.logits(mirrored), bundle.logits(faces), atol=1e-4)


@pytest.mark.real_data
def test_the_demo_runs_it_without_any_artifact(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "dagster_home").mkdir()
    (tmp_path / "workspace.yaml").touch()
    command = "import sys; sys.argv[1:1] = ['demo', 'play', '--headless', '--detector', 'haar']\n"
    command += "from fer_assets.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, str(clips[-1]), "--out", "log"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Student: student_" in done.stdout
    assert (tmp_path / "log" / "per_frame.csv").read_text().count("\n") > 10
