"""What a template's references print, and what they refuse."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from fer_ml.base.errors import FerError
from fer_ml.evidence.numbers import numbers_of
from fer_ml.recipes.builtin import ferplus
from fer_ml.report.marks import NUMBER
from fer_ml.report.results import paired_with
from fer_ml.storage.artifact import Artifact
from tests.refusals import refused

Made = Callable[..., Artifact]


def text_of(report: Artifact) -> str:
    """The Markdown, without where its numbers lead."""
    text = report.file("report.md").read_text(encoding="utf-8")
    return re.sub(rf"\[([^\[\]]+)\]\({NUMBER.pattern}\)", r"\1", text)


def given(report: Artifact, kind: str) -> list[dict[str, Any]]:
    return [item for item in report.read_json("report.json")["references"] if item["kind"] == kind]


def test_a_claim_prints_its_sentence_its_value_and_its_mark(make: Made) -> None:
    report = make("{{ claim('rows') }}/{{ claim('acc').value }}/{{ claim('late').mark }}")
    assert text_of(report) == (
        "There are 2,085 rows. [c1 ✓](../../evidence/claims/rows.html)"
        "/0.734 [c2 ✓](../../evidence/claims/acc.html)"
        "/[c4 ✗ stale](../../evidence/claims/late.html) (looked at before)"
    )
    assert [item["id"] for item in given(report, "claim")] == ["rows", "acc", "late"]


def test_claims_can_be_listed_and_asked_for_their_status(make: Made) -> None:
    template = (
        "{% for name in claims if claim(name).status == 'grounded' %}\n- {{ name }}\n{% endfor %}"
    )
    assert text_of(make(template)) == "- rows\n- acc\n"


def test_values_come_from_a_file_of_an_artifact(make: Made) -> None:
    report = make(
        "{{ value('student_dkd', 'numbers.json', '/rows') }} "
        "{{ value('student_dkd', 'numbers.json', '/share', decimals=2) }} "
        "{{ value('student_dkd', 'numbers.json', '/none') }} "
        "{% if known('student_dkd', 'numbers.json', '/none') %}x{% endif %}"
        "{% if known('student_dkd', 'numbers.json', '/nowhere') %}x{% endif %}"
        "{% if not known('student_dkd', 'numbers.json', '/rows') %}x{% endif %}"
        "{{ value('teacher[RN18]', 'numbers.json', '/a') }}"
    )
    assert text_of(report) == "2,085 0.12 not measured 1"
    first, *_, last = given(report, "value")
    assert (first["asset"], first["pointer"], first["printed"]) == ("student_dkd", "/rows", "2,085")
    assert last["asset"] == "teacher[RN18]"
    assert len(first["file_sha256"]) == len(first["sha256"]) == 64


def test_a_fraction_on_faces_that_were_looked_at_says_so_in_any_text(make: Made) -> None:
    report = make(
        "{{ value('student_dkd', 'numbers.json', '/seen/f1/mean', decimals=2) }}, "
        "{{ value('student_dkd', 'numbers.json', '/seen/n') }}"
    )
    assert text_of(report) == "0.25 (looked at before), 9"


def test_each_number_leads_to_a_page_that_has_it(make: Made) -> None:
    """In the text itself, in a table by the name of its row or column; texts lead nowhere."""
    report = make(
        "{{ value('student_dkd', 'numbers.json', '/rows') }}"
        " {{ value('student_dkd', 'numbers.json', '/text') }}\n\n"
        "{{ table('benchmark', set='val', show='classes') }}\n\n"
        "{{ table('benchmark', set='val', show='sources') }}\n\n"
        "{{ table('student_dkd', 'numbers.json', pointer='/by', decimals=2) }}\n\n"
        "{{ table('comparison/fair') }}"
    )
    held = numbers_of(report)
    assert held is not None
    pages = {f"../../evidence/numbers/{claim.id}.html": claim for claim in held.claims}
    html = report.file("report.html").read_text(encoding="utf-8")
    led = re.findall(r'<a href="([^"]+)" class="number"[^>]*>([^<]+)</a>', html)
    assert {page for page, _ in led} == pages.keys()
    for page, text in led:
        cells = [cell for row in pages[page].expected.values() for cell in row]
        if re.match(r"-?\d", text):
            assert re.match(r"[-\d.,]*\d", text)[0] in cells, text  # type: ignore[index]
    assert not re.findall(r"<td[^>]*>\s*[\d-]+[\d.]", html)


def test_two_numbers_that_touch_are_refused_though_each_leads_to_a_page(make: Made) -> None:
    number = "{{ value('student_dkd', 'numbers.json', '/rows') }}"
    with pytest.raises(FerError) as caught:
        make(number + number)
    assert str(caught.value.where).endswith("own.md.j2")


def test_a_table_of_the_benchmark_says_what_it_is_of_and_stays_comparable(make: Made) -> None:
    text = text_of(make("{{ table('benchmark', set='mixed') }}"))
    first, one, second, two = text.split("\n\n")
    assert first == (
        "*Table 1. mixed: `test_all_sources_manifest` `aaaaaaaaaaaa`, split test, "
        "official rows, n = 40. The faces are drawn: synthetic.*"
    )
    rows = [row.split("|")[1].strip() for row in one.split("\n")[2:]]
    assert rows == ["`student_ce`", "`student_dkd`"]
    assert "| 0.750 | 0.500 | 1.250 | 1.000 | 0.125 | 0.125 | - | 2.000 |" in one
    assert "n = 41" in second
    assert "Not to be compared with the table before: n: 40 and 41." in second
    assert "student_kd" in two and "student_ce" not in two


def test_a_split_that_models_were_chosen_on_is_no_test(make: Made) -> None:
    text = text_of(make("{{ table('benchmark', set='val') }}", ferplus()))
    assert (
        "official rows, n = 9. Models were chosen on this split: these are no test results.*"
        in text
    )
    assert "synthetic" not in text


def test_intervals_and_the_kind_of_rows_are_told_where_the_benchmark_has_them(make: Made) -> None:
    text = text_of(make("{{ table('benchmark', set='rows') }}"))
    assert "split test, deduplicated rows, n = 40. In brackets: 95% intervals" in text
    assert "| 0.750 | 0.500 (0.400 to 0.600) | 1.250 |" in text
    assert "| 0.125 | 0.017 (0.024) | 2.000 |" in text


def test_a_vector_scaling_stands_beside_the_temperature(make: Made) -> None:
    text = text_of(make("{{ table('benchmark', set='vector') }}"))
    assert "| ECE scaled | NLL vector | ECE vector | ECE by chance | T |" in text
    assert "| 0.125 | 0.875 | 0.062 | - | 2.000 |" in text


@pytest.mark.parametrize(
    ("to", "model", "row"),
    [
        (
            "student_dkd",
            "student_ce",
            "0.250 (0.125 to 0.500) | -0.250 (-0.500 to -0.125) | 0.500 (0.250 to 0.750)"
            " | 0.000 (-0.125 to 0.250)",
        ),
        (
            "student_ce",
            "student_dkd",
            "-0.250 (-0.500 to -0.125) | 0.250 (0.125 to 0.500) | -0.500 (-0.750 to -0.250)"
            " | 0.000 (-0.250 to 0.125)",
        ),
    ],
)
def test_a_model_less_another_on_the_same_faces(make: Made, to: str, model: str, row: str) -> None:
    text = text_of(make(f"{{{{ table('benchmark', set='mixed', show='paired', to='{to}') }}}}"))
    assert text.split("\n")[-1] == f"| `{model}` | {row} | 0.062 |"
    assert f"n = 40. The faces are drawn: synthetic. Less `{to}`, on the same faces" in text


def test_a_vanishing_p_is_not_zero(make: Made) -> None:
    template = "{{ table('benchmark', set='val', show='paired', to='student_ce') }}"
    row = text_of(make(template)).split("\n")[-1]
    assert row.startswith("| `student_dkd` | -0.750 (-1.000 to -0.500) |")
    assert row.endswith(r"| below 0.001 |")


def test_a_claim_that_says_how_it_is_shown_is_shown_so(make: Made) -> None:
    text = text_of(make("{{ claim('pair').value }}"))
    assert text == "9.1% [c3 ✗ not comparable](../../evidence/claims/pair.html)"


def test_tables_by_class_by_source_of_a_csv_and_of_files(make: Made) -> None:
    text = text_of(
        make(
            "{{ table('benchmark', set='val', show='classes') }}\n\n"
            "{{ table('benchmark', set='val', show='sources') }}\n\n"
            "{{ table('student_dkd', 'rows.csv', columns=['share', 'note'], rows=2, decimals=2) }}"
            "\n\n{{ table('student_dkd') }}"
        )
    )
    assert "| Neutral | 0.500 | 0.500 | 0.500 |" in text
    assert "| `ferplus` | 9 | 0.500 | 0.500 | 0.500 |" in text
    assert ", first 2 of 3 rows.*" in text
    assert "| share | note |\n| ---: | --- |\n| 0.12 | x\\|y |\n| 1.00 | \\*z\\* |" in text
    assert text.count("`student_dkd`, bytes `") == 1
    assert "| `curve.png` | " in text


def test_objects_of_a_json_file_are_a_table(make: Made) -> None:
    template = "{{ table('student_dkd', 'numbers.json', pointer='/by', decimals=2) }}"
    text = text_of(make(template))
    assert ", split val, n = 9.*" in text
    assert text.endswith(
        "| name | f1 | note |\n| --- | ---: | --- |\n"
        "| `a` | 0.50 | \\*x\\* |\n| `b` | not measured | y |"
    )


def test_a_comparison_shows_each_arm_against_the_baseline_and_the_one_before(make: Made) -> None:
    text = text_of(make("{{ table('comparison/fair') }}"))
    caption, shown = text.split("\n\n", 1)
    assert "mixed: test, n = 40" in caption
    assert "The faces are drawn: synthetic" in caption
    header, _, ce, kd, x = (
        [cell.strip() for cell in row.split("|")[1:-1]] for row in shown.strip().split("\n")
    )
    assert header[-2:] == ["macro-F1 less ce's", "less the arm's before"]
    assert ce[:3] + ce[-2:] == ["`ce`", "2", "0.400 (0.300 to 0.500)", "-", "-"]
    assert kd[-2:] == ["0.100 (0.000 to 0.200), p 0.030"] * 2
    assert x[-2:] == [
        "-0.100 (-0.200 to 0.000), p 0.030",
        "-0.200 (-0.300 to -0.100), p 0.030",
    ]
    assert "corrected for 3 differences (Holm)" in caption


def test_a_comparison_of_one_run_a_side_says_so(make: Made) -> None:
    caption, shown = text_of(make("{{ table('comparison/one') }}")).split("\n\n", 1)
    assert "One run a side" in caption and "interval" not in caption
    assert [cell.strip() for cell in shown.split("\n")[-1].split("|")[1:-1]] == [
        "`kd`",
        "1",
        "0.400",
        "0.400",
        "0.400",
        "0.400",
        *["0.100, no verdict"] * 2,
    ]


def test_p_values_beside_each_other_are_corrected_for_their_number() -> None:
    about = {"set": "s", "metric": "accuracy", "difference": "0", "low": "0", "high": "0"}
    pairs = [
        {**about, "model_a": model, "model_b": "to", "mcnemar_p": p}
        for model, p in (("x", "0.02"), ("y", "0.5"), ("z", "0.01"))
    ]
    found = paired_with(pairs, "s", "to")
    assert [found[model]["accuracy"]["mcnemar_p_holm"] for model in "xyz"] == [0.04, 0.5, 0.03]


def test_the_table_of_claims_is_where_the_marks_lead(make: Made) -> None:
    text = text_of(make("{{ table('report_claims') }}"))
    assert "2 of 4 claims grounded" in text
    assert "| CE is above KD by 9.1%. `pair` | ✗ not comparable | - | `-` |" in text
    assert (
        "| [c1](../../evidence/claims/rows.html) | There are 2,085 rows. `rows` | ✓ grounded | "
        in text
    )
    seen = "looked at before (since 2020-01-02): student_ce decided after"
    assert f"| ✗ stale: x_1: a \\*newer\\* one \\| is current; {seen} | " in text
    assert "`numbers.json/rows`" in text


def test_a_figure_is_a_copy_with_its_origin(make: Made) -> None:
    report = make("{{ figure('student_dkd', 'curve.png', 'A *curve*') }}")
    (figure,) = given(report, "figure")
    assert figure["copy"] == "figures/student_dkd_curve.png"
    assert report.record.files[figure["copy"]].sha256 == figure["file_sha256"]
    assert text_of(report).startswith("![A \\*curve\\*](figures/student_dkd_curve.png)\n\n")
    assert "*Figure 1. A \\*curve\\*. From `student_dkd` `curve.png`, bytes `" in text_of(report)


def test_faces_of_people_are_not_passed_on(make: Made) -> None:
    for file in ("faces.png", "faces/wrong.png"):
        template = "{{ figure('teacher[RN18]', '" + file + "', 'Faces') }}"
        assert given(make(template), "figure"), "drawn faces are nobody's"
        with refused("faces-in-report"):
            make(template, ferplus())


def test_gates_statements_and_sources(make: Made) -> None:
    report = make(
        "{{ gate('student_dkd', 'budget') }}; {{ stated('7 classes', why='by definition') }}\n\n"
        "{{ sources() }}"
    )
    text = text_of(report)
    assert text.startswith("passed: 2 epochs, limit 2; 7 classes\n")
    assert "| `student_dkd` | `" in text and "1 gate |" in text
    assert text.endswith("Stated by hand:\n\n- 7 classes: by definition")
    assert report.read_json("report.json")["uncovered"] == []


@pytest.mark.threat("a name contains mark-up")
def test_text_of_artifacts_stays_text(make: Made) -> None:
    report = make("{{ value('student_dkd', 'numbers.json', '/text') }} {{ claim('late') }}")
    html = report.file("report.html").read_text(encoding="utf-8")
    body = html.split("<body>")[1]
    assert "<script" not in body and "<img" not in body and "<strong" not in body
    assert "javascript:" not in [part.split('"')[0] for part in body.split('href="')[1:]]
    assert "&lt;script&gt;x&lt;/script&gt; **bold** | [9](javascript:a)" in body
    assert report.read_json("report.json")["citations"]["used"] == []


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{{ claim('nope') }}", "unknown-claim"),
        ("{{ value('student_dkd', 'numbers.json', '/share') }}", "missing-decimals"),
        ("{{ value('student_dkd', 'numbers.json', '/list') }}", "value-not-printable"),
        ("{{ value('student_dkd', 'numbers.json', '/nope') }}", "unknown-pointer"),
        ("{{ value('student_dkd', 'nope.json', '/a') }}", "unknown-file"),
        ("{{ value('student_ce', 'numbers.json', '/a') }}", "undeclared-input"),
        ("{{ value('a[b', 'c', '/d') }}", "invalid-asset-label"),
        ("{{ table('benchmark') }}", "invalid-table-arguments"),
        ("{{ table('benchmark', set='mixed', show='all') }}", "invalid-table-arguments"),
        ("{{ table('benchmark', set='nope') }}", "unknown-test-set"),
        ("{{ table('benchmark', set='mixed', show='paired') }}", "invalid-table-arguments"),
        ("{{ table('benchmark', set='mixed', to='student_ce') }}", "invalid-table-arguments"),
        ("{{ table('benchmark', set='mixed', show='paired', to='x') }}", "unknown-model"),
        ("{{ table('student_dkd', 'rows.csv', columns=['nope']) }}", "unknown-column"),
        ("{{ table('student_dkd', 'numbers.json', pointer='/list') }}", "not-a-table"),
        ("{{ table('student_dkd', 'numbers.json', pointer='/nope') }}", "unknown-pointer"),
        (
            "{{ table('student_dkd', 'numbers.json', pointer='/by', columns=['z']) }}",
            "unknown-column",
        ),
        ("{{ figure('student_dkd', 'rows.csv', 'x') }}", "unknown-suffix"),
        ("{{ gate('student_dkd', 'nope') }}", "unknown-gate"),
        ("{{ stated('7', why=' ') }}", "missing-reason"),
    ],
)
def test_a_reference_to_nothing_names_the_line(make: Made, template: str, code: str) -> None:
    with refused(code) as caught:
        make(f"# Title\n\n{template}\n")
    assert str(caught.value.where).endswith("own.md.j2:3")
