"""The reproducibility checklist: stated, or not, and where."""

import pytest

from fer_ml.report.checklist import CHECKLIST, check_list
from fer_ml.training import RUN_FILES

WHOLE = (
    f"Each run holds {', '.join(f'`{name}`' for name in RUN_FILES)}.\n\n"
    "Soft labels: `softlabels.npz` and\n`softlabels_index.jsonl` in `outputs/softlabels/x`.\n\n"
    "Rows are loaded by one\nprocess.\n\n"
    "A resumed run adds\nits epochs to those before.\n"
)


def stated(text: str) -> set[str]:
    return {found.item.name for found in check_list(text) if found.stated}


def test_a_report_that_states_all_of_it() -> None:
    assert stated(WHOLE) == {item.name for item in CHECKLIST}
    lines = {found.item.name: found.to_json()["lines"] for found in check_list(WHOLE)}
    assert lines == {"run_files": [1], "soft_labels": [3, 4], "loading": [6], "resume": [9]}


@pytest.mark.parametrize("name", RUN_FILES)
def test_one_file_that_is_not_named_is_enough_to_lack_it(name: str) -> None:
    assert "run_files" not in stated(WHOLE.replace(name, "other"))


def test_the_soft_labels_need_a_folder_or_a_hash() -> None:
    bare = "softlabels.npz, softlabels_index.jsonl"
    assert "soft_labels" not in stated(bare)
    assert "soft_labels" in stated(f"{bare}: 5f02629876ef")


def test_words_of_two_paragraphs_are_not_one_statement() -> None:
    assert stated("We resumed.\n\nThere are many epochs.") == set()
    assert stated("- We resumed.\n- There are many epochs.") == set()
    assert stated("Twenty epochs, then\nresumed.") == {"resume"}
