"""The chain beside a bundle closes, or says where it does not."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_ml.base.files import write_json
from fer_ml.base.labels import CLASSES
from fer_ml.bundles.bundle import CARD_FILE, MODEL_FILE, Card, load_bundle, write_card
from fer_ml.bundles.model_card import as_markdown
from fer_ml.bundles.provenance import CHAIN_FILE, chain_of, read_chain, verify_chain
from fer_ml.exchange.facts import lineage_nodes
from fer_ml.recipes.preprocess import Preprocess
from fer_ml.sources.raw import fingerprint
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input
from fer_ml.storage.store import Store
from tests.fer_ml.bundles.test_bundle import network
from tests.fer_ml.claims.conftest import judge
from tests.gates import blocking_rules
from tests.refusals import refused

METRICS = {
    "test_all_sources": {
        "split": "test",
        "n": 40,
        "selection_split": False,
        "accuracy": 0.7,
        "macro_f1": 0.61,
        "per_class_f1": dict.fromkeys(CLASSES, 0.6),
        "ece_scaled": 0.019,
        "intervals": {"macro_f1": [0.58, 0.63], "f1_Fear": [0.2, 0.4], "ece": [0.01, 0.03]},
    },
    "test_all_sources.deduplicated": {
        "split": "test",
        "n": 30,
        "selection_split": False,
        "accuracy": 0.6,
        "macro_f1": 0.51,
        "per_class_f1": dict.fromkeys(CLASSES, 0.5),
        "ece_scaled": 0.029,
        "ece_by_chance": {"mean": 0.02, "high": 0.04},
        "intervals": {"f1_Fear": [0.2, 0.4]},
    },
    "against_fp32": {"split": "val", "n": 9, "same_label": 1.0, "macro_f1_lost": 0.0},
}


def put(store: Store, asset: str, files: dict[str, bytes], inputs: list[Input]) -> Artifact:
    with store.begin(asset, inputs=inputs, recipe={"root": "/home/somebody/faces"}) as run:
        for name, data in files.items():
            run.path(name).write_bytes(data)
    artifact = store.current(asset)
    assert artifact is not None
    for rule in blocking_rules(asset):
        judge(store, artifact, rule)
    return artifact


@pytest.fixture
def shipped(store: Store, tmp_path: Path) -> Path:
    """A bundle of ``small_bundles`` <- ``hq_train_manifest`` <- a raw folder, taken out of it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "1.png").write_bytes(b"face")
    seen = Input(asset="raw/a", sha256=fingerprint(raw), root=str(raw))
    rows = put(store, "hq_train_manifest", {"hq_train_manifest.csv": b"sample_id\n1\n"}, [seen])
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / MODEL_FILE).write_bytes(network())
    card = Card(
        name="student_kd",
        profile="p",
        architecture="a",
        classes=CLASSES,
        preprocess=Preprocess(size=16),
        temperature=1.5,
        unsure_below=0.5,
        model_sha256=hashlib.sha256(network()).hexdigest(),
        checkpoint_sha256="0" * 64,
        data="d",
        licence="l",
        intended_use="i",
        metrics=METRICS,
    )
    write_card(folder, card)
    files = {f"fp16/{path.name}": path.read_bytes() for path in folder.iterdir()}
    small = put(store, "small_bundles", files, [rows.as_input()])
    nodes = lineage_nodes(store, [small], {"raw/a": seen.sha256})
    write_json(folder / CHAIN_FILE, chain_of(nodes, "fp16").model_dump())
    return folder


def test_the_chain_leads_from_the_network_to_the_raw_folder(shipped: Path, store: Store) -> None:
    chain = verify_chain(load_bundle(shipped))
    assert [link.label for link in chain.links] == ["hq_train_manifest", "small_bundles"]
    assert [named.label for named in chain.raw] == ["raw/a"]
    small = store.current("small_bundles")
    assert small is not None and chain.top.sha256 == small.sha256
    text = (shipped / CHAIN_FILE).read_text()
    assert "somebody" not in text and str(store.root) not in text


def _of_the_first(chain: dict[str, object], key: str, value: object) -> None:
    chain["links"][0][key] = value  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c["links"][0]["files"]["hq_train_manifest.csv"].update(bytes=1), None),
        (
            lambda c: c["links"][0]["files"]["hq_train_manifest.csv"].update(sha256="1" * 64),
            "hq_train_manifest",
        ),
        (lambda c: _of_the_first(c, "sha256", "2" * 64), "hq_train_manifest"),
        (lambda c: c["links"].pop(0), "hq_train_manifest"),
        (lambda c: c.update(raw=[]), "raw/a"),
        (lambda c: c["links"].pop(), MODEL_FILE),
        (lambda c: c.update(links=[]), ""),
        (lambda c: c.update(place=""), MODEL_FILE),
    ],
)
def test_each_break_is_named(
    change: Callable[[dict[str, object]], object], named: str | None, shipped: Path
) -> None:
    held = json.loads((shipped / CHAIN_FILE).read_text())
    change(held)
    (shipped / CHAIN_FILE).write_text(json.dumps(held))
    if named is None:  # A size is no part of a hash.
        verify_chain(load_bundle(shipped))
        return
    with refused("bundle-changed", where=shipped / CHAIN_FILE) as caught:
        verify_chain(load_bundle(shipped))
    assert named in caught.value.what


def test_another_card_than_the_published_one_is_refused(shipped: Path) -> None:
    card = json.loads((shipped / CARD_FILE).read_text())
    card["metrics"]["test_all_sources"]["macro_f1"] = 0.99
    (shipped / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
    with refused("bundle-changed"):
        verify_chain(load_bundle(shipped))


def test_a_bundle_without_a_chain_says_where_it_is_traced(shipped: Path) -> None:
    (shipped / CHAIN_FILE).unlink()
    with refused("missing-lineage"):
        verify_chain(load_bundle(shipped))
    (shipped / CHAIN_FILE).write_text('{"links": 3}')
    with refused("invalid-lineage"):
        read_chain(shipped)
    (shipped / CHAIN_FILE).write_text('{"schema_version": 2, "place": "", "links": [], "raw": []}')
    with refused("newer-version"):
        read_chain(shipped)


def test_what_is_not_sound_is_not_published(shipped: Path, store: Store, tmp_path: Path) -> None:
    small = store.current("small_bundles")
    assert small is not None
    rows = store.current("hq_train_manifest")
    assert rows is not None
    shutil.rmtree(rows.folder)
    with refused("lineage-broken"):
        chain_of(lineage_nodes(store, [small], {}), "fp16")


def test_the_card_says_what_people_ask_for(shipped: Path) -> None:
    bundle = load_bundle(shipped)
    page = as_markdown(bundle.card, verify_chain(bundle))
    for words in (
        "# student_kd, profile p, fp32",
        "| test_all_sources (test), no near twins | 30 | 0.600 | 0.510 | 0.029 | 0.020 (0.040) "
        "| chose nothing |\n"
        "| test_all_sources (test), as published | 40 | 0.700 | 0.610 (0.580 to 0.630) "
        "| 0.019 (0.010 to 0.030) | not known | chose nothing |",
        "| Fear | 0.500 (0.200 to 0.400) |",
        "same label to 1.0000 of 9 faces of val",
        f"`{bundle.card.model_sha256}`",
        "| `small_bundles` |",
        "| `hq_train_manifest` |",
        "| `raw/a` |",
    ):
        assert words in page, words
    assert "## What it was made from" not in as_markdown(bundle.card, None)
