"""Stages that cannot be: each is refused with one message before anything is made."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import fer_assets.stages
from fer_assets.stage import Given, Stage, in_order, needs
from fer_assets.stages import all_stages, stages_of_all_profiles
from fer_ml.recipes.builtin import sample
from fer_ml.storage.gates import Gate
from tests.refusals import refused

MODULE = """
from fer_assets.stage import Stage, needs


def stages(given):
    return [Stage("{asset}", "report", (), "", lambda run, job: None, needs({needs}))]
"""


def stage(asset: str, *inputs: str, group: str = "report") -> Stage:
    return Stage(asset, group, (), "", lambda run, job: None, needs(*inputs))


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module among those of the stages."""
    monkeypatch.setattr(fer_assets.stages, "__path__", [*fer_assets.stages.__path__, str(tmp_path)])

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"fer_assets.stages.{name}", raising=False)

    return put


def test_a_module_that_is_dropped_in_is_found(drop: Callable[[str, str], None]) -> None:
    drop("of_mine", MODULE.format(asset="mine", needs='"benchmark"'))
    drop("_shared", "raise AssertionError")
    found = list(all_stages(Given(sample())))
    assert found.index("mine") > found.index("benchmark")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "missing-stage"),
        (MODULE.format(asset="teacher", needs=""), "duplicate-asset"),
        (MODULE.format(asset="mine", needs='"nothing"'), "unknown-asset"),
        (MODULE.replace("report", "elsewhere").format(asset="mine", needs=""), "unknown-group"),
    ],
)
def test_a_wrong_module_is_told(drop: Callable[[str, str], None], text: str, code: str) -> None:
    drop("wrong", text)
    with refused(code):
        all_stages(Given(sample()))


def test_a_circle_is_told() -> None:
    with refused("stage-cycle"):
        in_order([stage("a", "b"), stage("b", "a")])


def test_a_gate_that_stands_twice_is_told() -> None:
    gate = Gate("good", "it is good", "make it good")
    with refused("duplicate-gate"):
        Stage("a", "report", (), "", lambda run, job: None, gates=(gate, gate))


def test_a_group_follows_what_it_needs() -> None:
    late = Stage("late", "report", (), "", lambda run, job: None)
    with refused("group-order"):
        in_order([stage("early", "late", group="manifests"), late])


def test_a_gate_is_named_as_its_file() -> None:
    with refused("invalid-gate-name"):
        Gate("A/b", "it is good", "make it good")


def test_the_order_of_sources_and_arms_decides() -> None:
    profile = sample()
    turned = profile.model_copy(update={"sources": profile.sources[::-1]})
    unified = all_stages(Given(profile))["classification_manifest"]
    assert unified.recipe(profile, None).recorded() != unified.recipe(turned, None).recorded()


def test_first_weights_count_by_their_bytes(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    profile = sample()
    first = replace(profile.teachers["RN18"], init="file", init_file=str(weights))
    profile = profile.model_copy(update={"teachers": {"RN18": first}})
    files = all_stages(Given(profile))["teacher"].files
    around = SimpleNamespace(profile=profile)
    before = files(around, "RN18")
    weights.write_bytes(b"two")
    assert files(around, "RN18") != before
    assert files(SimpleNamespace(profile=sample()), "RN18") == {}


def test_every_stage_says_what_its_files_are() -> None:
    stages = stages_of_all_profiles()
    assert [name for name, stage in stages.items() if not stage.holds] == []
