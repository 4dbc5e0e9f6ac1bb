"""Templates: which one, what it rests on, and what it cannot do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_ml.base.errors import FerError
from fer_ml.report.template import (
    BUILT_IN,
    Template,
    cited_assets,
    read_template,
    render,
    template_path,
)
from fer_ml.storage.artifact import Artifact
from tests.refusals import refused

Made = Callable[..., Artifact]


def test_the_users_own_template_comes_first(tmp_path: Path) -> None:
    assert template_path(tmp_path, "mine") == BUILT_IN / "report.md.j2"
    own = tmp_path / "report" / "mine.md.j2"
    own.parent.mkdir()
    own.write_text("# Mine\n")
    assert template_path(tmp_path, "mine") == own
    assert template_path(tmp_path, "other") == BUILT_IN / "report.md.j2"


def test_a_report_rests_on_what_its_template_refers_to() -> None:
    source = (
        "{{ claim('a') }}{{ value('demo_kpis', 'f', '/p') }}{% if drawn %}"
        "{{ figure('teacher[RN18]', 'f.png', 'c') }}{% endif %}{{ table('benchmark', set='x') }}"
        "{% set x = gate('ensemble', 'r') %}"
    )
    found = cited_assets(Template(Path("t"), source))
    assert found == {"demo_kpis", "teacher[RN18]", "benchmark", "ensemble"}


def test_an_asset_that_is_not_named_as_text_is_refused() -> None:
    for call in ("value(x, 'f', '/p')", "table()", "figure(x, 'f', 'c')"):
        with refused("asset-not-literal") as caught:
            cited_assets(Template(Path("t"), "\n{{ " + call + " }}"))
        assert caught.value.where == "t:2"


def test_a_part_is_read_in_its_place_and_errors_name_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.md.j2"
    path.write_text("# Mine\n\n{% include 'sources.md.j2' %}\n\n{{ 1 + 1 }}\n")
    template = read_template(path)
    part = (BUILT_IN / "parts" / "sources.md.j2").read_text()
    assert template.source == f"# Mine\n\n{part}\n{{{{ 1 + 1 }}}}\n"
    assert template.place(3) == f"{BUILT_IN / 'parts' / 'sources.md.j2'}:1"
    with pytest.raises(FerError) as caught:
        cited_assets(template)
    assert caught.value.where == f"{path}:5"


@pytest.mark.parametrize("name", ["other.md.j2", "../report.md.j2", ""])
def test_only_parts_are_included(tmp_path: Path, name: str) -> None:
    path = tmp_path / "own.md.j2"
    path.write_text(f"\n{{% include '{name}' %}}\n")
    with pytest.raises(FerError) as caught:
        read_template(path)
    assert caught.value.where == f"{path}:2"
    assert "sources.md.j2" in caught.value.allowed


@pytest.mark.parametrize(
    "line", ["See {% include 'header.md.j2' %}", "{% include part %}", "{% import 'a' as b %}"]
)
def test_a_part_that_does_not_stand_alone_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.md.j2"
    path.write_text(f"\n{line}\n")
    with pytest.raises(FerError) as caught:
        cited_assets(read_template(path))
    assert caught.value.where == f"{path}:2"
    path.write_text("  {%+ include 'header.md.j2' %}\n")
    assert "student_selection" in cited_assets(read_template(path))


@pytest.mark.parametrize("name", ["report.md.j2", "ferplus.md.j2", "ferplus_best.md.j2"])
def test_the_built_in_templates_show_the_selected_student_by_reference(name: str) -> None:
    cited = cited_assets(read_template(BUILT_IN / name))
    assert {"student_selection", "student_bundle", "small_bundles", "demo_kpis"} <= cited


def test_the_built_in_template_states_no_number_of_its_own() -> None:
    from fer_ml.report.literals import find_uncovered

    template = read_template(BUILT_IN / "report.md.j2")
    assert find_uncovered(template.source, {}) == []
    assert "benchmark" in cited_assets(template)


@pytest.mark.parametrize(
    "expression",
    [
        "0.82",
        "'accuracy 0.82'",
        "x | default(0.82)",
        "'0.82' | safe",
        "'%.2f' | format(0.82)",
        "claims | length",
        "claim('acc').value | length",
        "[0.82] | join",
        "1 + 1",
        "namespace(a=0.82).a",
        "lipsum()",
        "range(3) | list",
        "claim",
        "x",
        "claim('acc').__class__",
        "claim('acc').status.__class__.__mro__",
        "self.__init__.__globals__",
        "1 / 0",
        "claim('acc').value + 1",
        "drawn.nope",
        "title ~ ' reaches 99.9%'",
        "title + '9'",
        "claim('acc').value * 2",
        "'%s9' % claim('acc').value",
        "[title, '99.9'] | join(' ')",
        "claim('acc').value[2:]",
        "claim('acc').value.replace('7', '9')",
        "claim('acc').value.format('9')",
        "claim('acc').value | first",
        "'\uff19'",
        "figure('student_kd', 'curves.png', 'it reaches 99.9')",
    ],
)
@pytest.mark.threat("a report template runs code", "Templates are rendered in jinja2's sandbox.")
def test_no_expression_prints_a_number_or_leaves_the_sandbox(make: Made, expression: str) -> None:
    with pytest.raises(FerError) as caught:
        made = make("{{ " + expression + " }}")
        pytest.fail(made.file("report.md").read_text())
    assert str(caught.value.where).rpartition(":")[0].endswith("own.md.j2")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ 'a", "{% include 'x' %}", "{% import 'x' as y %}", "{% for %}", "{{"]
)
def test_a_template_that_cannot_be_read_or_asks_for_files(source: str) -> None:
    with pytest.raises(FerError):
        render(Template(Path("t"), source), {})


def test_macros_and_blocks_keep_what_references_gave(make: Made) -> None:
    made = make(
        "{% macro line(name) %}* {{ claim(name).value }}: {{ '_x_' }}{% endmacro %}"
        "{{ line('acc') }}\n{% set both %}{{ claim('rows').value }}{% endset %}{{ both }}"
    )
    text = made.file("report.md").read_text(encoding="utf-8")
    acc, rows = ("../../evidence/claims/acc.html", "../../evidence/claims/rows.html")
    assert text == f"* 0.734 [c2 ✓]({acc}): \\_x\\_\n2,085 [c1 ✓]({rows})"


@pytest.mark.parametrize(
    "source",
    [
        "{% set x = '99.9' %}{{ x }}",
        "{% macro m(x) %}{{ title }} {{ x }}{% endmacro %}{{ m('99.9') }}",
        "{% for x in claim('acc').value %}{{ x }}{% endfor %}",
        "{% for x in ['9', '9'] %}{{ x }}{% endfor %}",
        "{% set x %}{{ title }}{% endset %}{{ x ~ '9' }}",
        "{{ claims | select('equalto', 9) | list | length }}",
        "{% for n in 'ab' | list %}{{ value('student_dkd', 'numbers.json', '/rows') }}{% endfor %}",
        "{% macro v() %}{{ value('student_dkd', 'numbers.json', '/rows') }}{% endmacro %}"
        "{% for n in 'ab' | list %}**{{ v() }}**.{% endfor %}",
    ],
)
def test_no_detour_prints_a_number(make: Made, source: str) -> None:
    with pytest.raises(FerError):
        make(source)


@pytest.mark.parametrize("title", ["It reaches 99.9%", "\u0669 of them"])
def test_the_title_of_the_claims_is_prose_too(title: str) -> None:
    from fer_ml.report.literals import without_numbers

    with pytest.raises(FerError):
        without_numbers(title, "the title of the claims")
