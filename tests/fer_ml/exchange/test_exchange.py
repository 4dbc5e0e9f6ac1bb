"""What is written is read back by the formats' own libraries and compared with the store."""

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.serde import Serde
from prov.model import ProvActivity, ProvDerivation, ProvDocument, ProvEntity, ProvUsage

from fer_ml.claims.trace import Node
from fer_ml.exchange import export_lineage
from fer_ml.exchange.events import events
from fer_ml.exchange.facts import lineage_nodes, portable, times
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input, Receipt
from fer_ml.storage.store import Store
from tests.fer_ml.exchange.openlineage_schema import violations
from tests.gates import DEMANDS
from tests.refusals import refused

RUN_ID = "5f0b0f3e-9c0e-4a53-9a0c-2f6f2d1f4b11"
FINGERPRINT = "f" * 64


def put(store: Store, asset: str, partition: str | None, inputs: list[Input], **record: Any) -> Any:
    with store.begin(asset, partition, inputs=inputs, **record) as run:
        run.write_json("numbers.json", {"asset": asset})
        run.splits.update(checkpoint="val")
        run.summary.update(rows=7)
    return store.current(asset, partition)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """raw/a -> m_manifest -> teacher[RN18] -> softlabels, which also used bytes that are gone."""
    store = Store(tmp_path / "home" / "sample", "sample", demands=DEMANDS)
    raw = Input(asset="raw/a", sha256=FINGERPRINT, root=str(tmp_path / "data"))
    manifest = put(store, "m_manifest", None, [raw])
    recipe = {"init_file": str(tmp_path / "weights.pt"), "lr": 0.1, "stages": ["C:\\x\\y.pt"]}
    teacher = put(
        store, "teacher", "RN18", [manifest.as_input()], recipe=recipe, run_id=RUN_ID,
        code_version="2",
    )  # fmt: skip
    for rule, passed in (("class_order", True), ("above_floor", False)):
        store.write_receipt(
            teacher,
            Receipt(
                asset="teacher",
                partition="RN18",
                artifact_sha256=teacher.sha256,
                rule=rule,
                blocking=True,
                passed=passed,
                value=0.25,
                limit=str(tmp_path / "limit"),
                detail=str(tmp_path),
                examples=(),
                checked_at="2026-11-24T10:00:00+00:00",
                run_id=RUN_ID,
            ),
        )
    gone = Input(asset="ensemble", sha256="e" * 64)
    put(store, "softlabels", None, [teacher.as_input(), gone])
    return store


def current(store: Store, asset: str, partition: str | None = None) -> Artifact:
    artifact = store.current(asset, partition)
    assert artifact is not None
    return artifact


@pytest.fixture
def nodes(store: Store) -> list[Node]:
    return lineage_nodes(store, [current(store, "softlabels")], {"raw/a": FINGERPRINT})


def test_each_comes_after_its_inputs_and_faults_are_told(store: Store, nodes: list[Node]) -> None:
    assert [node.item.key for node in nodes] == [
        "raw/a",
        "m_manifest",
        "teacher[RN18]",
        "ensemble",
        "softlabels",
    ]
    assert nodes[0].problem is None
    assert nodes[2].problem is not None and "above_floor" in nodes[2].problem
    assert nodes[3].problem == "these bytes are no longer here"
    with refused("asset-not-made", where=store.root):
        lineage_nodes(store, [], {})


@pytest.mark.parametrize("format", ["openlineage", "prov"])
def test_no_path_of_the_machine_is_told(tmp_path: Path, nodes: list[Node], format: str) -> None:
    out = tmp_path / "out.json"
    export_lineage(nodes, "sample", format, out)
    files = [path for path in (out, *out.rglob("*")) if path.is_file()]
    assert files
    for path in files:
        text = path.read_text()
        assert str(tmp_path) not in text and "/home/" not in text and "C:\\" not in text
        assert FINGERPRINT in text


def test_openlineage(tmp_path: Path, store: Store, nodes: list[Node]) -> None:
    export_lineage(nodes, "sample", "openlineage", tmp_path / "l.jsonl")
    held = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    for event in held:
        # The library's own classes check ids, times and addresses.
        RunEvent(
            **{key: event[key] for key in ("eventTime", "producer")},
            eventType=RunState(event["eventType"]),
            run=Run(**event["run"]),
            job=Job(**event["job"]),
            inputs=[InputDataset(**d) for d in event["inputs"]],
            outputs=[OutputDataset(**d) for d in event["outputs"]],
        )  # fmt: skip
        for owner in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
            for facet in {**owner.get("facets", {}), **owner.get("inputFacets", {})}.values():
                assert facet["_producer"] and facet["_schemaURL"].startswith("https://openlineage")
        assert violations(event) == []
    kinds = [(event["job"]["name"], event["eventType"]) for event in held]
    assert kinds == [
        ("m_manifest", "START"),
        ("m_manifest", "COMPLETE"),
        ("teacher/RN18", "START"),
        ("teacher/RN18", "COMPLETE"),
        ("teacher/RN18/gates", "START"),
        ("teacher/RN18/gates", "COMPLETE"),
        ("softlabels", "START"),
        ("softlabels", "COMPLETE"),
    ]
    teacher = current(store, "teacher", "RN18")
    start, end, begun, gates = held[2:6]
    assert start["run"]["runId"] == end["run"]["runId"] != gates["run"]["runId"]
    assert begun["run"]["runId"] == gates["run"]["runId"]
    assert begun["eventTime"] <= gates["eventTime"]
    moments = [datetime.fromisoformat(event["eventTime"]) for event in (start, end)]
    assert moments[1].isoformat() == teacher.record.created_at
    assert moments[1] - moments[0] == timedelta(seconds=teacher.record.seconds)
    assert end["run"]["facets"]["parent"]["run"]["runId"] == RUN_ID
    (output,) = end["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == teacher.sha256
    assert output["facets"]["fer_files"]["files"] == {
        name: entry.model_dump() for name, entry in teacher.record.files.items()
    }
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert [d["facets"]["version"]["datasetVersion"] for d in end["inputs"]] == [
        item.sha256 for item in teacher.record.inputs
    ]
    (judged,) = gates["inputs"]
    found = {
        a["assertion"]: (a["success"], a["severity"], a["actual"], a["expected"])
        for a in judged["inputFacets"]["dataQualityAssertions"]["assertions"]
    }
    assert found == {
        "class_order": (True, "error", "0.25", "limit"),
        "above_floor": (False, "error", "0.25", "limit"),
    }
    tags = {t["key"]: t["value"] for t in end["run"]["facets"]["tags"]["tags"]}
    assert tags["code_version"] == "2" and tags["chosen_on/checkpoint"] == "val"
    parameters = {p["key"]: p["value"] for p in end["run"]["facets"]["executionParameters"]["parameters"]}  # fmt: skip  # noqa: E501
    assert parameters == {"init_file": "weights.pt", "lr": "0.1", "stages": '["y.pt"]'}


def test_the_schema_of_openlineage_bites(nodes: list[Node]) -> None:
    event = json.loads(Serde.to_json(next(events(nodes[2], "sample"))))
    assert violations(event) == []
    parameter = event["run"]["facets"]["executionParameters"]["parameters"][0]
    parameter["value"] = 0.1
    event["job"].pop("name")
    event["eventType"] = "DONE"
    event["run"]["facets"]["tags"]["tags"][0].pop("key")
    places = [fault.split(":")[0] for fault in violations(event)]
    assert sorted(places) == [
        "event.eventType",
        "event.job",
        "executionParameters.parameters[0].value",
        "tags.tags[0]",
    ]


@pytest.mark.parametrize(("suffix", "format"), [(".json", "json"), (".jsonld", "jsonld")])
def test_prov(tmp_path: Path, nodes: list[Node], suffix: str, format: str) -> None:
    out = tmp_path / f"p{suffix}"
    export_lineage(nodes, "sample", "prov", out)
    held = ProvDocument.deserialize(str(out), format=format)
    told = {
        str(r.get_attribute("prov:label").copy().pop()): r for r in held.get_records(ProvEntity)
    }
    assert set(told) == {node.item.key for node in nodes}
    for node in nodes:
        entity = told[node.item.key]
        kind = "fer:fingerprint" if node.item.root else "fer:sha256"
        assert entity.get_attribute(kind) == {node.item.sha256}
        assert bool(entity.get_attribute("fer:problem")) == (node.problem is not None)
    activities = {
        next(iter(r.get_attribute("fer:asset"))): r for r in held.get_records(ProvActivity)
    }
    assert set(activities) == {node.item.key for node in nodes if node.artifact}
    teacher = next(node for node in nodes if node.item.key == "teacher[RN18]")
    assert teacher.artifact is not None
    run = activities["teacher[RN18]"]
    assert (run.get_startTime(), run.get_endTime()) == times(teacher.artifact)
    assert run.get_attribute("fer:dagster_run") == {RUN_ID}
    assert told["teacher[RN18]"].get_attribute("fer:gate") == {
        "class_order passed blocking",
        "above_floor failed blocking",
    }
    edges = sum(len(node.inputs) for node in nodes)
    assert len(list(held.get_records(ProvUsage))) == edges == 4
    derived = {tuple(str(name) for name in r.args[:2]) for r in held.get_records(ProvDerivation)}
    assert (
        str(told["teacher[RN18]"].identifier),
        str(told["m_manifest"].identifier),
    ) in derived


def test_prov_as_text(tmp_path: Path, nodes: list[Node]) -> None:
    export_lineage(nodes, "sample", "prov", tmp_path / "p.provn")
    text = (tmp_path / "p.provn").read_text()
    assert text.startswith("document") and text.count("wasDerivedFrom(") == 4
    with refused("unknown-suffix"):
        export_lineage(nodes, "sample", "prov", tmp_path / "p.xml")


def test_what_is_in_the_way_or_unknown(tmp_path: Path, nodes: list[Node]) -> None:
    (tmp_path / "there").write_text("mine")
    for format in ("openlineage", "prov"):
        with refused("output-exists"):
            export_lineage(nodes, "sample", format, tmp_path / "there")
    assert (tmp_path / "there").read_text() == "mine"
    with refused("unknown-format") as caught:
        export_lineage(nodes, "sample", "ro-crate", tmp_path / "x")
    assert caught.value.allowed == "openlineage, prov, croissant"
    assert "fer claims export" in str(caught.value.fix)


def test_a_missing_library_is_named(
    tmp_path: Path, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "fer_ml.exchange.document", raising=False)
    monkeypatch.setitem(sys.modules, "prov.model", None)
    with refused("missing-package") as caught:
        export_lineage(nodes, "sample", "prov", tmp_path / "x")
    assert "[lineage]" in str(caught.value.fix)
    assert not (tmp_path / "x").exists()


def test_paths_lose_their_folders() -> None:
    assert portable({"a": ["/x/y.pt", "C:\\x\\z.pt", "~/w.pt"], "b": "a/b.png", "c": 3}) == {
        "a": ["y.pt", "z.pt", "w.pt"],
        "b": "a/b.png",
        "c": 3,
    }
