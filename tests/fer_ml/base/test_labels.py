"""The label tables speak of the seven classes, and agree with the publishers' orders."""

import pytest

from fer_ml.base.labels import (
    CLASS_INDEX,
    CLASSES,
    EXCLUDED_WORDS,
    EXCLUSIONS,
    EXPW_IDS,
    FER2013_IDS,
    FERPLUS_COLUMNS,
    RAFDB_BASIC_IDS,
    RAFDB_COMPOUND_IDS,
    RAFML_ORDER,
    WORDS,
    label_of_word,
)


def test_the_order_that_every_file_relies_on() -> None:
    assert CLASSES == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
    assert [CLASSES[CLASS_INDEX[name]] for name in CLASSES] == list(CLASSES)


def test_every_table_maps_onto_the_classes_and_reasons() -> None:
    for table in (WORDS, FER2013_IDS, EXPW_IDS, RAFDB_BASIC_IDS, RAFDB_COMPOUND_IDS):
        assert set(table.values()) <= set(CLASSES)
    assert set(WORDS.values()) == set(RAFDB_BASIC_IDS.values()) == set(CLASSES)
    assert set(RAFML_ORDER) == set(CLASSES) - {"Neutral"}
    assert set(FERPLUS_COLUMNS.values()) == set(CLASSES) | {"contempt", "unknown", "not a face"}
    assert set(EXCLUDED_WORDS.values()) <= set(EXCLUSIONS)
    assert not set(WORDS) & set(EXCLUDED_WORDS)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("happiness", ("Happy", None)),
        ("SAD", ("Sad", None)),
        ("Non-Face", (None, "not a face")),
        ("contempt", (None, "contempt")),
        ("hapy", (None, None)),
        ("", (None, None)),
        ("happysad", (None, None)),
    ],
)
def test_words(word: str, meaning: tuple[str | None, str | None]) -> None:
    assert label_of_word(word) == meaning
