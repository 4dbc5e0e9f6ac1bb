"""``adopted``: results made elsewhere, each with a list of what could not be verified."""

from typing import Any

from fer_assets.stage import Given, Limits, Recipe, Stage
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.gates import Gate, Outcome, at_most, not_applicable
from fer_ml.storage.job import Job
from fer_ml.storage.store import RunFolder, Store

GATES = (
    Gate(
        "class_order",
        "if the files name the classes, the classes are in the canonical order",
        "the columns mean something else than their place says: export again, in this order",
    ),
    Gate(
        "complete",
        "the files of checklist A.4 of the interim report are there",
        "adopt the folder again with the missing files; without them they cannot be cited",
        blocking=False,
    ),
    Gate(
        "consistent",
        "the files do not contradict each other",
        "read the checks in adoption.json before you cite one of its numbers",
        blocking=False,
    ),
    Gate(
        "verified",
        "every fact could be verified",
        "train or evaluate again here: only results made here can be traced to the raw rows",
        blocking=False,
    ),
)


#: The contents of each file in the run folder; ``<...>`` stands for a name.
HOLDS = {
    "<file>": "the adopted file, under its own name",
    "adoption.json": (
        "`adopted` (true), `kind`, `origin` (its original name), `files` (`sha256`, `bytes`),"
        " `missing` (of checklist A.4), `left_out`, `converted_from` (`file`, `sha256`, `bytes`), "
        "`checks` (`check`, `holds`, `detail`), `unverified`, `facts`"
    ),
}


def build(run: RunFolder, job: Job[Recipe]) -> None:
    """Examine the adopted result again, from the copies in the store.

    ``fer adopt`` makes the first artifact of a partition, with ``build_foreign`` of the library.
    """
    from fer_ml.adoption.build import build_again

    build_again(run, job)


def judge(artifact: Artifact, store: Store, limits: Limits) -> list[Outcome]:
    """Judge what the examination found. Only a wrong class order makes a result unusable."""
    from fer_ml.adoption import ADOPTION_FILE

    examination: dict[str, Any] = artifact.read_json(ADOPTION_FILE)
    failed = [c for c in examination["checks"] if not c["holds"]]
    order = [c for c in failed if c["check"].startswith("class_order")]
    named = [c for c in examination["checks"] if c["check"].startswith("class_order")]
    lines = [f"{c['check']}: {c['detail']}" for c in failed]
    return [
        at_most("class_order", len(order), 0, "", [c["detail"] for c in order])
        if named
        else not_applicable("class_order", "no file names the classes"),
        at_most("complete", len(examination["missing"]), 0, ", ".join(examination["missing"])),
        at_most("consistent", len(failed), 0, f"of {len(examination['checks'])} checks", lines)
        if examination["checks"]
        else not_applicable("consistent", "no two files say the same"),
        at_most(
            "verified",
            len(examination["unverified"]),
            0,
            "taken on trust",
            examination["unverified"],
        ),
    ]


def stages(given: Given) -> list[Stage]:
    """Return the stage of ``adopted``: a partition for each result, with the inputs it names."""
    return [
        Stage(
            asset="adopted",
            group="adopted",
            kinds=("json",),
            describe="Results made elsewhere, one in each partition: a run directory, an "
            "evaluation, a soft-label export, a manifest or a validation report, added by "
            "`fer adopt`. `adoption.json` lists contradictions between its files and what could "
            "not be verified. Materializing it again examines the copies in the store anew.",
            partitions="adopted",
            on_request=True,
            holds=HOLDS,
            build=build,
            gates=GATES,
            judge=judge,
        )
    ]
