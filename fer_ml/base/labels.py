"""The seven classes, and every publisher's labels mapped onto them. Tables only, in one place.

The order of ``CLASSES`` is load-bearing: logits, soft labels, bundles and confusion matrices are
all in this order, and each of those files carries it so that a reader can refuse another one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

CLASSES: tuple[str, ...] = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
CLASS_INDEX: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

#: Reasons for leaving a row out that lie in what the publisher says of it, not in a fault.
EXCLUSIONS: tuple[str, ...] = (
    "contempt",
    "unknown",
    "not a face",
    "tied votes",
    "other label",
    "low confidence",
)

#: Folder names and words, compared in lower case with everything but letters and digits removed.
WORDS: dict[str, str] = {
    "angry": "Angry",
    "anger": "Angry",
    "disgust": "Disgust",
    "disgusted": "Disgust",
    "fear": "Fear",
    "fearful": "Fear",
    "afraid": "Fear",
    "happy": "Happy",
    "happiness": "Happy",
    "sad": "Sad",
    "sadness": "Sad",
    "surprise": "Surprise",
    "surprised": "Surprise",
    "suprise": "Surprise",
    "neutral": "Neutral",
}

#: Words that are understood and left out on purpose.
EXCLUDED_WORDS: dict[str, str] = {
    "contempt": "contempt",
    "unknown": "unknown",
    "uncertain": "unknown",
    "none": "other label",
    "other": "other label",
    "others": "other label",
    "nonface": "not a face",
    "notface": "not a face",
    "nf": "not a face",
}

#: What publishers call a part of their data, compared in lower case.
SPLIT_WORDS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "publictest"), "val"),
    **dict.fromkeys(("test", "testing", "privatetest"), "test"),
}

#: FER2013's csv and ExpW's label.lst number the classes in the canonical order.
FER2013_IDS: dict[int, str] = dict(enumerate(CLASSES))
EXPW_IDS: dict[int, str] = dict(enumerate(CLASSES))

RAFDB_BASIC_IDS: dict[int, str] = {
    1: "Surprise",
    2: "Fear",
    3: "Disgust",
    4: "Happy",
    5: "Sad",
    6: "Angry",
    7: "Neutral",
}

#: RAF-DB compound expressions by their primary emotion, as the interim report mapped them.
RAFDB_COMPOUND_IDS: dict[int, str] = {
    1: "Happy",
    2: "Happy",
    3: "Sad",
    4: "Sad",
    5: "Sad",
    6: "Sad",
    7: "Fear",
    8: "Fear",
    9: "Angry",
    10: "Angry",
    11: "Disgust",
}

#: Column order of RAF-ML's distribution.txt (it has no Neutral).
RAFML_ORDER: tuple[str, ...] = ("Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry")

#: Vote columns of FER+'s fer2013new.csv, in its order.
FERPLUS_COLUMNS: dict[str, str] = {
    "neutral": "Neutral",
    "happiness": "Happy",
    "surprise": "Surprise",
    "sadness": "Sad",
    "anger": "Angry",
    "disgust": "Disgust",
    "fear": "Fear",
    "contempt": "contempt",
    "unknown": "unknown",
    "NF": "not a face",
}


def normalise_word(word: str) -> str:
    """Lower case, letters and digits only: ``Non-Face`` and ``non face`` become ``nonface``."""
    return "".join(ch for ch in word.lower() if ch.isalnum())


def split_of_word(word: str) -> str | None:
    """``train``, ``val`` or ``test``, or ``None`` for a word that is in no table."""
    return SPLIT_WORDS.get(word.lower())


@dataclass(frozen=True)
class LabelTable:
    """The mapping from a publisher's labels to ``CLASSES``, or to a reason for exclusion.

    The keys of ``meanings`` are labels as they are written or, with ``words``, as
    ``normalise_word`` returns them. Without ``words`` the table belongs to one publisher, and each
    of its labels must occur in the data: a missing one shows that another numbering was used.
    """

    meanings: Mapping[str, str]
    words: bool = False

    def __call__(self, text: str) -> tuple[str | None, str | None]:
        """Return ``(class, None)`` or ``(None, reason for exclusion)``; two ``None`` if unknown."""
        meaning = self.meanings.get(normalise_word(text) if self.words else text)
        return (meaning, None) if meaning in CLASS_INDEX else (None, meaning)

    @property
    def allowed(self) -> str:
        """Return the accepted labels as text for an error message."""
        if self.words:
            return f"the words {', '.join(self.meanings)}"
        return ", ".join(f"{label} {meaning}" for label, meaning in self.meanings.items())

    def is_of(self, labels: set[str]) -> bool:
        """Whether data that hold these ``labels`` can be data of this table."""
        if self.words:
            return all(self(label) != (None, None) for label in labels)
        return labels == set(self.meanings)


def numbered(ids: Mapping[int, str]) -> LabelTable:
    """Return a table of numeric ids, matched as text: ``01`` and ``1.0`` are not ``1``."""
    return LabelTable({str(number): label for number, label in ids.items()})


#: Words for the classes, and those that are left out on purpose.
WORD_TABLE = LabelTable({**WORDS, **EXCLUDED_WORDS}, words=True)


def label_of_word(word: str) -> tuple[str | None, str | None]:
    """Look a word or folder name up in ``WORD_TABLE``: ``(class, reason for exclusion)``."""
    return WORD_TABLE(word)
