"""One flipped byte anywhere turns exactly the claims that rest on it, and no other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_ml.claims.model import ClaimsFile
from fer_ml.claims.trace import Tracer
from fer_ml.claims.verify import verify
from fer_ml.sources.raw import fingerprint
from fer_ml.storage.artifact import Artifact
from fer_ml.storage.record import Input
from fer_ml.storage.store import Store

Chain = dict[str, Artifact]

#: Each claim by the artifact that it cites, and a pointer in one of its JSON files.
CLAIMS = {
    "manifest/a": ("clean_report.json", "/rows"),
    "manifest/b": ("clean_report.json", "/rows"),
    "student_dkd": ("training.json", "/kd_temperature"),
    "benchmark": ("benchmark.json", "/total"),
}
TEXT = {"id": "text", "kind": "sum", "sentence": "S {value}", "expected": "3", "parts": ["1", "2"]}


def statuses(store: Store) -> dict[str, str]:
    claims = [
        {
            "id": asset.replace("/", "-"),
            "kind": "number",
            "sentence": "S {value}",
            "asset": asset,
            "file": file,
            "pointer": pointer,
        }
        for asset, (file, pointer) in CLAIMS.items()
    ]
    held = ClaimsFile.model_validate({"version": "2", "title": "T", "claims": [*claims, TEXT]})
    found = verify(held, Tracer(store)).claims
    return {r.claim.asset or r.claim.id: r.status for r in found}


def resting_on(chain: Chain, asset: str) -> set[str]:
    """By the records' own inputs: every asset with a path down to ``asset``."""
    found = {asset}
    for _ in chain:
        for artifact in chain.values():
            held = json.loads((artifact.folder / "record.json").read_text())
            if found & {item["asset"] for item in held["inputs"]}:
                found.add(artifact.record.asset)
    return found


def places(store: Store, chain: Chain, raw: dict[str, Input]) -> Iterator[tuple[str, Path]]:
    for asset, artifact in chain.items():
        for path in sorted(artifact.folder.glob("*.*")):
            yield asset, path
        yield asset, store.home(asset) / "current.json"
    for name, item in raw.items():
        yield f"raw/{name}", Path(str(item.root)) / "face.png"


def test_each_file_of_each_artifact(store: Store, chain: Chain, raw: dict[str, Input]) -> None:
    all_green = dict.fromkeys([*CLAIMS, "text"], "grounded")
    assert statuses(store) == all_green
    kinds = set()
    for asset, path in places(store, chain, raw):
        kinds.add(path.suffix)
        closure = resting_on(chain, asset)
        data = path.read_bytes()
        stat = path.stat()
        for position in (0, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            found = statuses(store)
            turned = {asset for asset, status in found.items() if status != "grounded"}
            assert turned == closure & set(CLAIMS), (asset, path.name, position, found)
            assert set(found.values()) <= {"grounded", "drifted", "stale"}
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert statuses(store) == all_green
    assert kinds >= {".csv", ".json", ".pt", ".npz", ".png", ".parquet", ".onnx", ".html", ".jsonl"}


@pytest.mark.parametrize("rule", ["leakage", "missing_paths"])
def test_each_byte_of_a_receipts_verdict(store: Store, chain: Chain, rule: str) -> None:
    path = chain["classification_manifest"].folder / "receipts" / f"{rule}.json"
    text = path.read_text()
    for before, after in (('"passed": true', '"passed": trte'), ('"artifact_sha256": "', '"x": "')):
        path.write_text(text.replace(before, after))
        found = statuses(store)
        assert {a for a, s in found.items() if s == "stale"} == {"student_dkd", "benchmark"}
    path.write_text(text)
    assert set(statuses(store).values()) == {"grounded"}


def test_a_raw_folders_fingerprint_is_what_stands_in_the_lineage(raw: dict[str, Input]) -> None:
    assert all(fingerprint(Path(str(item.root))) == item.sha256 for item in raw.values())
