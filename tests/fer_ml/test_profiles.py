"""Profiles and settings: refused at the door, with the field named."""

from pathlib import Path
from typing import Any

import pytest

from fer_ml.errors import FerError
from fer_ml.profiles import BACKBONES, PROFILES, load_profile
from fer_ml.settings import Settings, UserConfig, find_project, read_config


def settings(tmp_path: Path, **config: Any) -> Settings:
    return Settings(
        project=tmp_path,
        home=tmp_path / "outputs",
        profile="sample",
        yunet=None,
        device="auto",
        config=UserConfig.model_validate(config),
    )


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_loads_and_survives_json(name: str, tmp_path: Path) -> None:
    profile = load_profile(settings(tmp_path), name)
    assert type(profile).model_validate(profile.model_dump(mode="json")) == profile


def test_the_paper_profile_is_the_reports_protocol(tmp_path: Path) -> None:
    paper = load_profile(settings(tmp_path), "paper")
    assert {k: t.architecture for k, t in paper.teachers.items()} == BACKBONES
    assert [t.epochs for t in paper.teachers.values()] == [60, 60, 60]
    assert [paper.students[s].epochs for s in ("ce", "kd", "dkd")] == [10, 20, 10]
    assert paper.ensemble.weights == (0.4, 0.4, 0.2)
    assert paper.preprocess.size == 224
    assert len(paper.sources) == 7


def test_own_profiles_merge_tables_and_replace_the_rest(tmp_path: Path) -> None:
    own = {"base": "sample", "seed": 7, "preprocess": {"size": 64}}
    profile = load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    assert (profile.name, profile.seed, profile.preprocess.size) == ("mine", 7, 64)
    assert profile.preprocess.clahe_clip == PROFILES["sample"]().preprocess.clahe_clip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": 1}, "profiles.mine.sead"),
        ({"preprocess": {"size": 8}}, "profiles.mine.preprocess: size = 8 is outside 16 to 1024"),
        ({"teachers": {"RN18": {"lrr": 1}}}, "profiles.mine.teachers.RN18.lrr"),
        ({"students": {"ce": {"task": {"kind": "kdd"}}}}, "profiles.mine.students.ce.task"),
        ({"experiments": {"a b": {}}}, "profiles.mine.experiments"),
        ({"hq_train": {"sources": ["nobody"]}}, "hq_train.sources"),
        ({"hq_train": {"min_confidence": {"nobody": 1}}}, "hq_train.min_confidence"),
        ({"curations": {"hard": {"sources": ["nobody"]}}}, "hard.sources"),
        ({"curations": {"hq_train": {"sources": ["ferplus"]}}}, "curations.hq_train"),
        ({"teachers": {"VGG": {}}}, "teachers"),
        ({"selection": {"flips_gain": -0.1}}, "profiles.mine.selection.flips_gain"),
        ({"base": "nothing"}, "unknown profile 'nothing'"),
        ({"ensemble": {"weights": [1.0]}}, "ensemble.weights"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FerError, match=message):
        load_profile(settings(tmp_path, profiles={"mine": {"base": "sample", **changes}}), "mine")


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="sample, ferplus, paper"):
        load_profile(settings(tmp_path), "samplle")


@pytest.mark.parametrize("text", ["profile = ", "colour = 'red'", "[roots]\nx = 3", "\xff"])
def test_a_wrong_fer_toml_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fer.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FerError, match=r"fer\.toml"):
        read_config(path)


def test_no_project_is_an_error_only_away_from_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FER_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (find_project() / "pyproject.toml").is_file()
    (tmp_path / "workspace.yaml").touch()
    (tmp_path / "dagster_home").mkdir()
    assert find_project() == tmp_path
