"""Profiles and settings: refused at the door, with the field named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fer_ml.base.settings import Settings, UserConfig, find_project, read_config
from fer_ml.recipes.builtin import PROFILES, ferplus, sample
from fer_ml.recipes.loading import load_profile
from fer_ml.recipes.profile import BACKBONES, Profile
from fer_ml.runs.ensemble import given_weights
from tests.refusals import refused


def settings(tmp_path: Path, **config: Any) -> Settings:
    return Settings(
        project=tmp_path,
        dagster_home=tmp_path / "dagster_home",
        home=tmp_path / "outputs",
        profile="sample",
        device="auto",
        config=UserConfig.from_plain(config),
    )


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_profile_loads_and_survives_json(name: str, tmp_path: Path) -> None:
    profile = load_profile(settings(tmp_path), name)
    assert type(profile).from_plain(profile.model_dump(mode="json")) == profile


def test_the_paper_profile_is_the_reports_protocol(tmp_path: Path) -> None:
    paper = load_profile(settings(tmp_path), "paper")
    assert {k: t.architecture for k, t in paper.teachers.items()} == BACKBONES
    assert [t.epochs for t in paper.teachers.values()] == [60, 60, 60]
    assert [paper.students[s].epochs for s in ("ce", "kd", "dkd")] == [10, 20, 10]
    assert given_weights(paper.ensemble.weights, list(paper.teachers)) == (0.4, 0.4, 0.2)
    assert paper.preprocess.size == 224
    assert len(paper.sources) == 7


def test_own_profiles_merge_tables_and_replace_the_rest(tmp_path: Path) -> None:
    own = {"base": "sample", "seed": 7, "preprocess": {"size": 64}}
    profile = load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    assert (profile.name, profile.seed, profile.preprocess.size) == ("mine", 7, 64)
    assert profile.preprocess.clahe_clip == PROFILES["sample"]().preprocess.clahe_clip


@pytest.mark.parametrize("base", sorted(PROFILES))
@pytest.mark.parametrize(("seed", "further"), [(0, (2, 3)), (2, (3, 4)), (3, (2, 4)), (9, (2, 3))])
def test_any_seed_has_repetitions_of_its_own(
    tmp_path: Path, base: str, seed: int, further: tuple[int, int]
) -> None:
    own = {"base": base, "seed": seed, "demo": {"video": "a.mp4"}}
    profile = load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    repeated = {
        training.seed for training in profile.experiments.values() if training.seed is not None
    }
    assert profile.seed == seed
    assert repeated == (set(further) if base in ("sample", "ferplus") else set())
    other = {"name": base, "seed": PROFILES[base]().seed}
    if further == (2, 3):
        assert {**dict(profile), **other, "demo": None} == {**dict(PROFILES[base]()), "demo": None}


@pytest.mark.parametrize("asked", ["sample", "mine"])
def test_a_built_in_name_always_means_the_same(tmp_path: Path, asked: str) -> None:
    profiles = {"sample": {"seed": 7}, "mine": {"base": "sample"}}
    with refused("reserved-profile-name") as caught:
        load_profile(settings(tmp_path, profiles=profiles), asked)
    assert 'base = "sample"' in str(caught.value.fix)


def test_an_experiment_of_another_seed_is_told(tmp_path: Path) -> None:
    """With seed 2 the repetitions have other seeds, and so other names."""
    own = {"base": "sample", "seed": 2, "experiments": {"ce_2": {"epochs": 3}}}
    with refused("invalid-profile") as caught:
        load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    assert "ce_3, ce_4" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sead": 1}, "profiles.mine.sead"),
        ({"seed": -1}, "profiles.mine.seed"),
        ({"seed": 2.0}, "profiles.mine.seed"),
        ({"seed": "2"}, "profiles.mine.seed"),
        ({"seed": True}, "profiles.mine.seed"),
        ({"seed": 2**63}, "profiles.mine.seed"),
        ({"experiments": {"ce_2": {"seed": -1}}}, "profiles.mine.experiments.ce_2"),
        ({"seed": 5, "experiments": {"ce_2": {"seed": 5}}}, "experiments.ce_2.seed"),
        ({"demo": {"p95_block": True}}, "profiles.mine.demo.p95_block"),
        ({"preprocess": {"size": 8}}, "profiles.mine.preprocess"),
        ({"teachers": {"RN18": {"lrr": 1}}}, "profiles.mine.teachers.RN18.lrr"),
        ({"students": {"ce": {"task": {"kind": "kdd"}}}}, "profiles.mine.students.ce.task"),
        ({"experiments": {"a b": {}}}, "profiles.mine.experiments"),
        ({"hq_train": {"sources": ["nobody"]}}, "hq_train.sources"),
        ({"hq_train": {"min_confidence": {"nobody": 1}}}, "hq_train.min_confidence"),
        ({"curations": {"hard": {"sources": ["nobody"]}}}, "hard.sources"),
        ({"curations": {"hq_train": {"sources": ["ferplus"]}}}, "curations.hq_train"),
        ({"teachers": {"VGG": {}}}, "teachers"),
        ({"selection": {"flips_gain": -0.1}}, "profiles.mine.selection.flips_gain"),
        ({"ensemble": {"weights": [1.0]}}, "ensemble.weights"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with refused("invalid-profile", where="fer.toml") as caught:
        load_profile(settings(tmp_path, profiles={"mine": {"base": "sample", **changes}}), "mine")
    assert field in caught.value.what


@pytest.mark.parametrize("base", ["nothing", ["sample"]])
def test_an_unknown_base_is_refused_with_the_known_ones(tmp_path: Path, base: object) -> None:
    with refused("unknown-profile", where="fer.toml", allowed=", ".join(PROFILES)):
        load_profile(settings(tmp_path, profiles={"mine": {"base": base}}), "mine")


TRAINING = {"architecture": "resnet18", "task": {"kind": "ce"}, "init": "none", "epochs": 1}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"experiments": {"nul": TRAINING}}, "experiments.nul"),
        ({"experiments": {"KD": TRAINING}}, "experiments: kd and KD"),
        ({"models": {"Com1": "x.pt"}}, "models.Com1"),
        ({"curations": {"aux": {"sources": ["ferplus"]}}}, "curations.aux"),
        ({"sources": [{"name": "con", "adapter": "split_folders"}]}, "sources.con"),
    ],
)
def test_names_that_some_file_system_refuses(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    """They name folders, and an artifact root may be copied to any machine."""
    with refused("invalid-profile") as caught:
        load_profile(settings(tmp_path, profiles={"mine": {"base": "sample", **changes}}), "mine")
    assert field in caught.value.what
    with refused("invalid-profile") as caught:
        load_profile(settings(tmp_path, profiles={"prn": {"base": "sample"}}), "prn")
    assert "profiles.prn" in caught.value.what


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fer_toml_from_any_editor(tmp_path: Path, start: bytes, end: bytes) -> None:
    lines = [
        b'profile = "mine"',
        b"[roots]",
        b"faces = 'C:\\data\\faces'",
        b'other = "D:/f\xc3\xa9"',
    ]
    (tmp_path / "fer.toml").write_bytes(start + end.join(lines) + end)
    config = read_config(tmp_path / "fer.toml")
    assert config.profile == "mine"
    assert config.roots == {"faces": "C:\\data\\faces", "other": "D:/fé"}


def test_a_windows_path_in_double_quotes_is_told_how_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "fer.toml").write_bytes(b'[roots]\r\nfaces = "C:\\data\\faces"\r\n')
    with refused("invalid-toml") as caught:
        read_config(tmp_path / "fer.toml")
    assert caught.value.fix and "single quotes" in caught.value.fix
    (tmp_path / "fer.toml").write_bytes('profile = "mine"'.encode("utf-16"))
    with refused("invalid-toml") as caught:
        read_config(tmp_path / "fer.toml")
    assert caught.value.fix == "save it as UTF-8"
    (tmp_path / "fer.toml").write_bytes(b"a = " + b"[" * 100_000)
    with refused("invalid-toml"):
        read_config(tmp_path / "fer.toml")
    (tmp_path / "fer.toml").write_bytes('profile = "mine"'.encode("utf-16-le"))
    with refused("invalid-toml") as caught:
        read_config(tmp_path / "fer.toml")
    assert caught.value.fix == "save it as UTF-8"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (r'roots = { faces = "C:\new" }', "roots.faces"),
        (r'profiles.mine.demo.video = "D:\temp.avi"', "profiles.mine.demo.video"),
        (r'profiles.mine.sources = [{ root = "\u001b[2K" }]', "profiles.mine.sources.0.root"),
        ('profile = """mine\n"""', "profile"),
    ],
)
def test_a_control_character_is_refused_and_not_a_path(tmp_path: Path, line: str, key: str) -> None:
    """TOML reads a line break in "C:\\new", and nobody meant that."""
    (tmp_path / "fer.toml").write_text(line)
    with refused("control-character") as caught:
        read_config(tmp_path / "fer.toml")
    assert caught.value.what.startswith(f"{key} ")
    assert caught.value.fix and "single quotes" in caught.value.fix


def test_keys_that_stand_twice_and_blanks(tmp_path: Path) -> None:
    (tmp_path / "fer.toml").write_text("profile = 'a'\nprofile = 'b'\n")
    with refused("invalid-toml") as caught:
        read_config(tmp_path / "fer.toml")
    assert "line 2" in caught.value.what
    (tmp_path / "fer.toml").write_text("\tprofile\t=\t'a'\t# c\r\n\r\n[roots]\r\n\tb\t= 'c'")
    assert read_config(tmp_path / "fer.toml").roots == {"b": "c"}


SOURCE = {"name": "mine", "adapter": "csv_manifest"}
OF_MINE: dict[str, Any] = {
    "drawn": False,
    "demo": {"video": "clip.avi"},
    "sources": [SOURCE],
    **{name: {"sources": ["mine"]} for name in ("hq_train", "eval_only", "test_all_sources")},
}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sources": [{**SOURCE, "splits": {"holdout": "test"}}]}, "sources.0: splits.holdout"),
        ({"sources": [{**SOURCE, "splits": {"valid": "val"}}]}, "sources.0: splits.valid"),
        ({"sources": [{**SOURCE, "splits": {"val": "val"}}]}, "sources.0: splits.val"),
        ({"sources": [{**SOURCE, "labels": {"7": "joy"}}]}, "sources.0: labels.7"),
        ({"sources": [{**SOURCE, "labels": {"7": "happy"}}]}, "sources.0: labels.7"),
        (
            {"eval_only": {"sources": ["mine"], "splits": ["val"], "drop_twins": True}},
            "eval_only: drop_twins",
        ),
        (
            {
                "sources": [SOURCE, {**SOURCE, "name": "other"}],
                "eval_only": {"sources": ["mine"], "min_confidence": {"other": 0.5}},
            },
            "eval_only.min_confidence",
        ),
        ({"drawn": True, "sources": [{**SOURCE, "root": "faces"}]}, "sources: root of"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    with refused("invalid-profile") as caught:
        load_profile(settings(tmp_path, profiles={"mine": {**OF_MINE, **changes}}), "mine")
    assert field in caught.value.what


def test_a_folder_is_for_a_source_of_some_profile(tmp_path: Path) -> None:
    held = settings(tmp_path, profiles={"mine": OF_MINE})
    for name, known in (("mine", True), ("ferplus", True), ("mien", False)):
        config = held.config.model_copy(update={"roots": {name: "x"}})
        here = held.model_copy(update={"config": config})
        if known:
            assert load_profile(here, "mine").name == "mine"
        else:
            with refused("unknown-source") as caught:
                load_profile(here, "sample")
            assert "mine" in str(caught.value.allowed)


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    with refused("unknown-profile", allowed="sample, ferplus, ferplus_best, paper"):
        load_profile(settings(tmp_path), "samplle")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("profile = ", "invalid-toml"),
        ("\xff", "invalid-toml"),
        ("colour = 'red'", "invalid-config"),
        ("[roots]\nx = 3", "invalid-config"),
    ],
)
def test_a_wrong_fer_toml_is_one_clear_error(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "fer.toml"
    path.write_bytes(text.encode("latin-1"))
    with refused(code, where=path):
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


def test_a_project_that_is_named_is_that_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slip of the pen works on another project, and purges there."""
    for place in (tmp_path, tmp_path / "none"):
        monkeypatch.setenv("FER_PROJECT", str(place))
        with refused("project-not-found") as caught:
            find_project()
        assert str(place) in str(caught.value.where)


def test_folds_are_trainings_of_every_teacher_and_views_are_the_students(tmp_path: Path) -> None:
    profile = load_profile(settings(tmp_path), "ferplus")
    assert profile.folds == {"RN18_1": ("RN18", 0), "RN18_2": ("RN18", 1)}
    views, kd = profile.views, profile.students["kd"]
    assert views is not None
    assert (views.count, views.seed) == (6, profile.seed)
    assert (views.augment, views.strength, views.erase) == (kd.augment, kd.strength, kd.erase)
    assert load_profile(settings(tmp_path), "sample").folds == {}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"softlabels": {"folds": 1}}, "softlabels.folds"),
        (
            {
                "experiments": {
                    "other": {
                        "architecture": "mobilenetv3_large_100",
                        "task": {"kind": "dist"},
                        "init": "none",
                        "epochs": 1,
                        "augment": "camera",
                        "strength": 0.9,
                    }
                }
            },
            "experiments.other.strength",
        ),
        ({"experiments": {"kd": {"size": 64}}}, "experiments.kd.size"),
        ({"teachers": {"RN18": {"size": 64}}}, "teachers.RN18.size"),
        ({"softlabels": {"folds": 0}}, "experiments.kd_calibrated.soft_labels"),
        ({"ensemble": {"weights": "interim_report"}}, "ensemble.weights"),
        (
            {"without": ["experiments", "comparisons"], "softlabels": {"folds": 1}},
            "softlabels.folds",
        ),
    ],
)
def test_a_profile_that_would_teach_wrongly_is_refused(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with refused("invalid-profile", where="fer.toml") as caught:
        load_profile(settings(tmp_path, profiles={"mine": {"base": "ferplus", **change}}), "mine")
    assert field in caught.value.what


def test_what_the_base_has_not_cannot_be_left_out(tmp_path: Path) -> None:
    own = {"base": "ferplus", "without": ["experiments.nobody"]}
    with refused("unknown-field", where="fer.toml") as caught:
        load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    assert "experiments.nobody" in caught.value.what


def test_what_the_base_has_can_be_left_out(tmp_path: Path) -> None:
    own = {"base": "sample", "without": ["teachers.B3", "experiments", "comparisons"]}
    mine = load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    assert list(mine.teachers) == ["RN18", "CNXT"]
    assert mine.experiments == {}


def test_the_confidence_of_sources_goes_with_them(tmp_path: Path) -> None:
    mine = {"name": "mine", "adapter": "split_folders"}
    curations = {
        name: {"sources": ["mine"]} for name in ("hq_train", "eval_only", "test_all_sources")
    }
    own = {"drawn": False, "sources": [mine], **curations, "demo": {"video": "a.mp4"}}
    profile = load_profile(settings(tmp_path, profiles={"own": own}), "own")
    assert profile.hq_train.min_confidence == {}
    assert profile.eval_only.splits == sample().eval_only.splits
    kept = load_profile(settings(tmp_path, profiles={"own": {"hq_train": {"min_side": 40}}}), "own")
    assert kept.hq_train == sample().hq_train.model_copy(update={"min_side": 40})


@pytest.mark.parametrize(
    ("base", "changes", "left"),
    [
        ("ferplus", {}, {"test_all_sources", "eval_only"}),
        ("ferplus", {"eval_only": {"splits": ["val"]}}, {"test_all_sources"}),
        ("ferplus", {"sources": [s.model_dump(mode="json") for s in ferplus().sources]}, set()),
        ("ferplus", {"without": ["looked_at"]}, set()),
        ("ferplus_best", {}, {"test_all_sources", "eval_only", "ferplus_test", "agreed"}),
        (
            "ferplus_best",
            {"without": ["curations", "comparisons"]},
            {"test_all_sources", "eval_only"},
        ),
    ],
)
def test_what_the_base_looked_at_goes_with_its_faces(
    tmp_path: Path, base: str, changes: dict[str, Any], left: set[str]
) -> None:
    own = {"base": base, **changes}
    profile = load_profile(settings(tmp_path, profiles={"own": own}), "own")
    assert set(profile.looked_at) == left


def fair(**changes: Any) -> Profile:
    """The sample with a comparison of ce and kd, and ``changes`` to the training ``kd_2``."""
    base = sample()
    experiments = {**base.experiments, "kd_2": replace(base.experiments["kd_2"], **changes)}
    return Profile.model_validate({**dict(base), "experiments": experiments})


def assert_fault(make: Callable[[], object], *words: str) -> None:
    """``make`` is refused by one rule of the profile, whose message names ``words``."""
    with pytest.raises(ValidationError) as caught:
        make()
    (fault,) = caught.value.errors()
    assert fault["type"] == "value_error"
    assert all(word in fault["msg"] for word in words), fault["msg"]


def test_a_fair_comparison_is_accepted() -> None:
    assert fair().comparisons["distillation"].baseline == "ce"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 9}, ("epochs", "kd_2")),
        ({"batch_size": 32}, ("batch_size", "kd_2")),
        ({"strength": 0.9}, ("strength", "kd_2")),
        ({"seed": 3}, ("kd_2", "experiments.kd_3.seed")),
        ({"seed": 1337}, ("kd_2", "experiments.kd_2.seed")),
        ({"seed": 4}, ("[1337, 4, 3]", "[1337, 2, 3]", "experiments.kd_2.seed")),
    ],
)
def test_runs_of_an_arm_differ_in_their_seed_alone(
    changes: dict[str, Any], told: tuple[str, ...]
) -> None:
    assert_fault(lambda: fair(**changes), "arms.kd", *told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"baseline": "dkd"}, "baseline"),
        ({"varies": ("epochs",)}, "varies: ['epochs']"),
        ({"varies": ("seed",)}, "varies: ['seed']"),
        ({"varies": ("colour",)}, "varies: ['colour']"),
        ({"evaluation": "hq_train"}, "evaluation"),
        ({"arms": {"ce": ("ce", "ce_2", "ce_3"), "x": ("no", "kd_2", "kd_3")}}, "arms: "),
        ({"arms": {"ce": ("ce", "ce_2"), "kd": ("kd", "kd_2")}}, "arms"),
        (
            {"arms": {"ce": ("ce", "ce_2", "ce_3"), "v": ("votes", "votes_2", "votes_3")}},
            "arms.v: targets",
        ),
    ],
)
def test_what_a_comparison_must_declare(changes: dict[str, Any], told: str) -> None:
    base = sample()
    votes = {f"votes_{s}": replace(base.experiments["votes"], seed=s) for s in (2, 3)}
    given = {**dict(base), "experiments": {**base.experiments, **votes}}
    held = {**dict(base.comparisons["distillation"]), **changes}
    wrong = {**given, "comparisons": {"distillation": held}}
    assert_fault(lambda: Profile.model_validate(wrong), told)
    if "v" in changes.get("arms", {}):
        Profile.model_validate({**given, "comparisons": {"a": {**held, "varies": ("targets",)}}})


def test_what_was_looked_at_is_an_evaluation_set_on_a_day() -> None:
    given = dict(sample())
    assert_fault(
        lambda: Profile.model_validate({**given, "looked_at": {"hq_train": "2020-01-02"}}),
        "looked_at",
    )
    for no_day in ("lately", "2026-02-30", "20260203", "2026-2-3", "2026-W05-2"):
        with pytest.raises(ValidationError, match=r"looked_at\.eval_only"):
            Profile.model_validate({**given, "looked_at": {"eval_only": no_day}})
    assert Profile.model_validate({**given, "looked_at": {"eval_only": "2020-01-02"}}).looked_at


@pytest.mark.parametrize("named", ["weights/first.pt", "~/first.pt", "/elsewhere/first.pt"])
def test_first_weights_lie_where_fer_toml_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """Not where ``fer`` is started."""
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    first = {"init": "file", "init_file": named}
    own = {"base": "sample", "teachers": {"RN18": first}, "students": {"ce": first}}
    profile = load_profile(settings(tmp_path, profiles={"mine": own}), "mine")
    meant = {"w": tmp_path / named, "~": Path("/home/me/first.pt"), "/": Path(named)}[named[0]]
    assert Path(str(profile.teachers["RN18"].init_file)) == meant
    assert Path(str(profile.students["ce"].init_file)) == meant
