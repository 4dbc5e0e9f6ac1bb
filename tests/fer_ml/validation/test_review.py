"""Labels worth a second look: by hand, against plain loops, and on a page that carries nothing."""

import base64
import io
from collections import defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_ml.base.labels import CLASSES
from fer_ml.manifests.schema import BOX, SCHEMA
from fer_ml.validation.review import (
    MAX_SHOWN,
    THUMB_SIDE,
    prediction_disagreements,
    review_html,
    source_disagreements,
)
from tests.refusals import refused

Make = Callable[..., pl.DataFrame]


def rows_of(*rows: dict[str, Any]) -> pl.DataFrame:
    """Manifest rows; the path is the row's number, the group is the sample."""
    filled = [
        {**dict.fromkeys(SCHEMA), "image_path": f"{i}.png", "group_id": row.get("sample_id"), **row}
        for i, row in enumerate(rows)
    ]
    return pl.DataFrame(filled, schema=SCHEMA)


def row(source: str, label: str, votes: str | None = None, **more: Any) -> dict[str, Any]:
    return {"source": source, "label": label, "votes": votes, "sample_id": "s", **more}


def boxed(left: int) -> dict[str, int]:
    return dict(zip(BOX, (left, 0, left + 9, 9), strict=True))


# Angry; Disgust; Fear; Happy; Sad; Surprise; Neutral
@pytest.mark.parametrize(
    ("votes", "label_b", "a", "b", "score"),
    [
        ("0;0;0;10;0;0;0", "Happy", 0.0, 1.0, 1.0),
        ("0;0;0;9;1;0;0", "Happy", 0.1, 0.9, 0.9),
        ("0;0;0;5;3;0;2", "Happy", 0.3, 0.5, 0.6),
        ("0;0;0;5;0;5;0", "Happy", 0.0, 0.5, 0.75),
        ("0;0;0;0.5;0.25;0;0.25", "Happy", 0.25, 0.5, 0.625),
    ],
)
def test_a_score_by_hand(votes: str, label_b: str, a: float, b: float, score: float) -> None:
    frame = rows_of(row("fer2013", "Sad"), row("ferplus", label_b, votes))
    found = source_disagreements(frame)
    assert found.height == 1
    one = found.row(0, named=True)
    assert (one["source_a"], one["label_a"], one["image_path"]) == ("fer2013", "Sad", "0.png")
    assert (one["source_b"], one["label_b"], one["votes"]) == ("ferplus", label_b, votes)
    assert one["support_a"] == pytest.approx(a) and one["support_b"] == pytest.approx(b)
    assert one["score"] == pytest.approx(score)


@pytest.mark.parametrize("votes", [None, "0;0;0;0;0;0;0"])
def test_without_votes_sources_stand_against_each_other(votes: str | None) -> None:
    two = source_disagreements(rows_of(row("b", "Sad"), row("a", "Happy", votes)))
    assert two.select("label_a", "label_b", "votes", "support_a", "support_b", "score").rows() == [
        ("Sad", "Happy", None, None, None, 0.5)
    ]
    # The many rows of one source are one voice.
    three = source_disagreements(
        rows_of(row("a", "Sad"), row("b", "Happy"), row("c", "Happy"), *[row("a", "Sad")] * 4)
    )
    assert set(three["label_a"]) == {"Sad"} and three.height == 5
    assert three["score"].to_list() == pytest.approx([2 / 3] * 5)


def test_the_most_suspicious_labels_come_first() -> None:
    cases = {
        "unanimous": (row("b", "Happy", "0;0;0;10;0;0;0"), 1.0),
        "most": (row("b", "Happy", "0;0;0;7;3;0;0"), 0.7),
        "nobody": (row("b", "Happy"), 0.5),
    }
    frame = rows_of(
        *(
            one
            for name, (witness, _) in reversed(cases.items())
            for one in (row("a", "Sad", sample_id=name), witness | {"sample_id": name})
        )
    )
    found = source_disagreements(frame)
    assert found["sample_id"].to_list() == list(cases)
    assert found["score"].to_list() == pytest.approx([score for _, score in cases.values()])


def test_the_witness_is_the_row_with_the_clearest_votes() -> None:
    found = source_disagreements(
        rows_of(
            row("a", "Sad", "0;0;0;4;6;0;0"),
            row("b", "Happy", "0;0;0;9;1;0;0"),
            row("c", "Happy"),
            row("d", "Neutral"),
        )
    )
    assert set(found.select("label_a", "source_b").iter_rows()) == {("Sad", "b"), ("Neutral", "b")}


def test_rows_of_one_group_are_one_face_where_there_is_no_box() -> None:
    near = [row("a", "Sad", sample_id="x"), row("b", "Happy", sample_id="y")]
    assert source_disagreements(rows_of(*near)).is_empty()
    group = [one | {"group_id": "g"} for one in near]
    assert source_disagreements(rows_of(*group)).height == 1

    # Two people in one photo may feel differently; the same box may not have two labels.
    people = [group[0] | boxed(0), group[1] | boxed(20)]
    assert source_disagreements(rows_of(*people)).is_empty()
    assert source_disagreements(rows_of(*people, group[1])).is_empty()
    again = people[0] | {"label": "Fear"}
    assert source_disagreements(rows_of(*people, again))["label_a"].to_list() == ["Sad"]


def test_rows_without_identity_or_class_are_left_to_validation() -> None:
    frame = rows_of(
        row("a", "Sad", sample_id=None),
        row("b", "Happy", sample_id=None),
        row("a", "hapy"),
        row("b", "Happy"),
        row("c", "Happy") | {"label": None},
    )
    assert source_disagreements(frame).is_empty()
    assert source_disagreements(frame.clear()).columns == source_disagreements(frame).columns


@pytest.mark.parametrize(
    "votes", ["", "1;2;3", "0;0;0;x;0;0;0", "0;0;0;-1;0;0;0", "0;0;0;nan;0;0;0", "1;;1;1;1;1;1"]
)
def test_votes_that_are_no_votes_are_an_error(votes: str) -> None:
    with refused("invalid-votes"):
        source_disagreements(rows_of(row("a", "Sad"), row("b", "Happy", votes)))


@st.composite
def manifests(draw: st.DrawFn) -> pl.DataFrame:
    """Up to 30 rows of few faces; a third with votes."""
    votes = st.lists(st.integers(0, 4), min_size=7, max_size=7).map(lambda v: ";".join(map(str, v)))
    drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from("abc"),
                st.sampled_from(CLASSES[2:5]),
                st.none() | votes,
                st.sampled_from("stu"),
                st.sampled_from(["g", "h", None]),
                st.booleans(),
            ),
            max_size=30,
        )
    )
    rows = [
        row(source, label, vote, sample_id=sample + (group or ""), group_id=group)
        | (boxed(0) if box and group == "h" else {})
        for source, label, vote, sample, group, box in drawn
    ]
    return rows_of(*rows)


def by_loops(frame: pl.DataFrame) -> list[tuple[str, str, str, str, float]]:
    """``(image_path, label_a, label_b, source_b, score)`` of each pair, from the definition."""
    rows = frame.rows(named=True)
    with_box = {r["group_id"] for r in rows if r["bbox_left"] is not None}
    members = defaultdict(list)
    for r in rows:
        alone = r["group_id"] is None or r["group_id"] in with_box
        members[("s", r["sample_id"]) if alone else ("g", r["group_id"])].append(r)
    found = []
    for faces in members.values():
        voices = {(r["source"], r["label"]) for r in faces}

        def share(r: dict[str, Any], label: str, voices: set[tuple[str, str]] = voices) -> float:
            votes = [float(v) for v in (r["votes"] or "0").split(";")]
            if sum(votes):
                return votes[CLASSES.index(label)] / sum(votes)
            return sum(voice[1] == label for voice in voices) / len(voices)

        def order(r: dict[str, Any]) -> tuple[Any, ...]:
            voted = any(float(v) for v in (r["votes"] or "0").split(";"))
            where = (CLASSES.index(r["label"]), r["source"], r["image_path"])
            return (not voted, -share(r, r["label"]), *where)

        b = min(faces, key=order)
        found += [
            (
                a["image_path"],
                a["label"],
                b["label"],
                b["source"],
                (1 + share(b, b["label"]) - share(b, a["label"])) / 2,
            )
            for a in faces
            if a["label"] != b["label"]
        ]
    return sorted(found)


@given(manifests())
@settings(max_examples=150)
def test_disagreements_are_those_of_plain_loops(frame: pl.DataFrame) -> None:
    found = source_disagreements(frame)
    columns = ("image_path", "label_a", "label_b", "source_b", "score")
    expected = by_loops(frame)
    actual = sorted(found.select(columns).rows())
    assert [one[:-1] for one in actual] == [one[:-1] for one in expected]
    assert [one[-1] for one in actual] == pytest.approx([one[-1] for one in expected])
    assert found["score"].is_between(0, 1).all()
    assert found["score"].is_sorted(descending=True)
    assert found.equals(source_disagreements(frame.reverse())), "the order of rows does not matter"


def test_a_large_group_gives_at_most_its_rows() -> None:
    frame = rows_of(*(row("ab"[i % 2], CLASSES[i % 7]) for i in range(3_000)))
    assert source_disagreements(frame).height < 3_000


# Predictions


def predicted(make_manifest: Make, rows: int, seed: int) -> tuple[pl.DataFrame, list[str], Any]:
    rng = np.random.default_rng(seed)
    labels = [{"label": CLASSES[i]} for i in rng.integers(0, 6, rows)]  # Nobody is Neutral.
    frame = make_manifest(labels)
    order = rng.permutation(rows)
    probs = rng.dirichlet(np.full(7, 0.6), rows).astype(np.float32)
    return frame, frame["sample_id"].gather(order).to_list(), probs


def judged(frame: pl.DataFrame, ids: list[str], probs: np.ndarray) -> pl.DataFrame:
    return prediction_disagreements(frame, ids, probs, held_out=np.ones(len(ids), bool))


def test_scores_are_those_of_plain_loops(make_manifest: Make) -> None:
    frame, ids, probs = predicted(make_manifest, 200, 0)
    # A second source says something else about ten of the faces.
    other = frame.head(10).with_columns(source=pl.lit("b"), label=pl.lit("Fear"))
    frame = pl.concat([frame, other])
    rows = [
        (r["image_path"], r["source"], CLASSES.index(r["label"]), probs[ids.index(r["sample_id"])])
        for r in frame.rows(named=True)
    ]
    limits = {}
    for j in range(7):
        of_class = [float(p[j]) for *_, y, p in rows if y == j]
        limits[j] = sum(of_class) / len(of_class) if of_class else None
    expected = {}
    for path, source, y, p in rows:
        best = max((j for j in range(7) if j != y), key=lambda j: p[j])
        if p[best] <= p[y]:
            continue
        confident = [j for j in range(7) if limits[j] is not None and p[j] >= limits[j]]
        likely = bool(confident) and max(confident, key=lambda j: p[j]) != y
        expected[path, source] = (CLASSES[best], p[y], (p[y] - p[best] + 1) / 2, likely)

    found = judged(frame, ids, probs)
    columns = ("predicted", "self_confidence", "normalised_margin", "likely_error")
    assert found.height == len(expected)
    for r in found.rows(named=True):
        assert tuple(r[c] for c in columns) == pytest.approx(
            expected[r["image_path"], r["source"]], abs=1e-6
        )
    ranks = found.select("self_confidence", "normalised_margin").rows()
    assert ranks == sorted(ranks)
    likely = found["likely_error"]
    assert 0 < likely.sum() < found.height, "the case has both"
    assert found.equals(judged(frame.reverse(), ids, probs))


def test_a_label_of_equal_probability_is_not_contradicted(make_manifest: Make) -> None:
    frame = make_manifest([{"label": "Happy"}])
    probs = np.zeros((1, 7))
    probs[0, [0, 3]] = 0.5
    assert judged(frame, frame["sample_id"].to_list(), probs).is_empty()


def test_nothing_to_judge(make_manifest: Make) -> None:
    empty = make_manifest(1).clear()
    assert judged(empty, [], np.zeros((0, 7))).is_empty()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a["held_out"].__setitem__(3, False), "not-held-out"),
        (lambda a: a.update(held_out=np.ones(20)), "invalid-array"),
        (lambda a: a.update(held_out=np.ones(19, bool)), "invalid-array"),
        (lambda a: a.update(probs=a["probs"][:, :6]), "invalid-array"),
        (lambda a: a.update(probs=a["probs"][1:]), "invalid-array"),
        (lambda a: a["probs"].__setitem__((2, 0), np.nan), "invalid-probabilities"),
        (lambda a: a["probs"].__setitem__(2, [2, -1, 0, 0, 0, 0, 0]), "invalid-probabilities"),
        (lambda a: a.update(probs=a["probs"] * 0.99), "invalid-probabilities"),
        (lambda a: a.update(probs=np.log(a["probs"])), "invalid-probabilities"),
        (lambda a: a["sample_ids"].__setitem__(0, "other"), "different-rows"),
        (lambda a: a["sample_ids"].__setitem__(0, a["sample_ids"][1]), "duplicate-sample"),
        (lambda a: a.update(frame=a["frame"].head(9)), "different-rows"),
        (
            lambda a: a.update(frame=a["frame"].with_columns(label=pl.lit("hapy"))),
            "unknown-label",
        ),
    ],
)
def test_what_is_refused(
    make_manifest: Make, change: Callable[[dict[str, Any]], Any], code: str
) -> None:
    frame, ids, probs = predicted(make_manifest, 20, 1)
    case = {"frame": frame, "sample_ids": ids, "probs": probs, "held_out": np.ones(20, bool)}
    prediction_disagreements(**case)
    change(case)
    with refused(code):
        prediction_disagreements(**case)


# The page


class Page(HTMLParser):
    """What is in a page: its tags with attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[Image.Image]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img":
                start, _, data = str(attributes["src"]).partition(",")
                assert start == "data:image/png;base64"
                found.append(Image.open(io.BytesIO(base64.b64decode(data))))
        return found


def test_a_page_shows_the_faces_and_the_votes(make_manifest: Make, tmp_path: Path) -> None:
    votes = "0;0;0;8;2;0;0"
    frame = make_manifest(
        [
            {"source": "fer2013", "label": "Sad", "sample_id": "s", "group_id": "s"},
            {
                "source": "ferplus",
                "label": "Happy",
                "sample_id": "s",
                "group_id": "s",
                "votes": votes,
            },
        ]
    )
    page = Page(review_html(source_disagreements(frame), tmp_path, "A title"))
    assert [image.size for image in page.images] == [(THUMB_SIDE, THUMB_SIDE)]
    for text in (
        "A title",
        "1 of 1 labels",
        "Sad against Happy (1).",
        "votes: 8 Happy, 2 Sad",
        "0.800",
    ):
        assert text in page.text


def test_a_page_of_predictions(make_manifest: Make, tmp_path: Path) -> None:
    frame, ids, probs = predicted(make_manifest, 60, 2)
    found = judged(frame, ids, probs)
    page = Page(review_html(found, tmp_path, "t"))
    assert page.text.count("the model") == found.height
    marks = sum(attributes.get("class") == "bad" for _, attributes in page.tags)
    assert marks == found["likely_error"].sum() > 0
    assert f"margin {found['normalised_margin'][0]:.3f}" in page.text


def test_a_page_is_one_file_and_escapes_everything(tmp_path: Path) -> None:
    attack = "\"><script src='https://example.org/x.js'></script><img src=x onerror=y>{{ 7*7 }}"
    table = source_disagreements(
        rows_of(
            row(attack, "Sad", image_path=f"../../{attack}"),
            row("b", "Happy", sample_id="s"),
        )
    ).with_columns(label_a=pl.lit(attack), label_b=pl.lit(attack))
    page = Page(review_html(table, tmp_path, attack))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "link", "iframe", "a"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(attack) >= 5 and "path leaves the root" in page.text


def test_a_page_shows_the_first_rows_of_many(tmp_path: Path) -> None:
    frame = rows_of(
        *(row("ab"[i % 2], ("Sad", "Happy")[i % 2], sample_id=f"{i // 2:04}") for i in range(2_400))
    )
    page = Page(review_html(source_disagreements(frame), tmp_path, "t"))
    assert f"{MAX_SHOWN} of 1,200 labels" in page.text
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + MAX_SHOWN
    assert page.text.count("no such file") == MAX_SHOWN
    empty = review_html(source_disagreements(frame.clear()), tmp_path, "t")
    assert "0 of 0 labels" in Page(empty).text


def test_another_table_is_refused(tmp_path: Path) -> None:
    with refused("not-a-review-table"):
        review_html(pl.DataFrame({"label": ["Sad"]}), tmp_path, "t")
