"""The bundle for a maintainer: what must be in it, and what must be in no byte of it."""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from fer_assets.doctor import examine
from fer_assets.pipeline import Pipeline
from fer_assets.remote import adopt_foreign
from fer_assets.running import materialize
from fer_assets.support import write_bundle
from fer_ml.base import logs
from fer_ml.base.errors import FerError
from fer_ml.base.settings import settings
from tests.refusals import refused

SECRETS = {
    "FER_SMTP": "smtps://bot:mail%2Dpass-7c1e@mail.example.org",
    "FER_WEBHOOK": "https://chat.example.org/hook/hook-token-91ab",
    "FER_MAIL_TO": "jane.roe@example.org",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-44d0",
    "FER_POSTGRES": "postgresql://fer:pg-pass-03ff@db.example.org/fer",
}
#: What must be in no byte: the secrets, their passwords as they are used, and a person's name.
NOWHERE = [
    *SECRETS.values(),
    *("mail-pass-7c1e", "hook-token-91ab", "aws-secret-44d0", "pg-pass-03ff", "42424242"),
    *("Jane", "jane", "Roe", "example.org"),
]
PROFILE = """
[roots]
mine = "{root}"
[profiles.own]
base = "ferplus"
sources = [{{ name = "mine", adapter = "class_folders", title = "Photos of Jane Roe" }}]
draw = {{ val = 0.2, calib = 0.5, test = 0.25 }}
hq_train = {{ sources = ["mine"] }}
eval_only = {{ sources = ["mine"] }}
test_all_sources = {{ sources = ["mine"] }}
demo = {{ video = "/videos/Jane Roe.avi" }}
"""


@pytest.fixture
def pipeline(
    project: Callable[[str], Pipeline],
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Pipeline:
    """A project whose raw data, adopted result, log and settings name a person or hold secrets."""
    project("sample")
    root = tmp_path / "Photos of Jane Roe" / "Happy"
    root.mkdir(parents=True)
    images = sorted(drawn.rglob("*.png"))[:6]
    for number, image in enumerate(images):
        shutil.copy(image, root / f"Jane Roe {number}.png")
    (root / "Jane Roe broken.png").write_bytes(b"no image")
    folder = Path(os.environ["FER_PROJECT"])
    (folder / "fer.toml").write_text(PROFILE.format(root=root.parent))
    for name, value in SECRETS.items():
        if name != "FER_POSTGRES":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("FER_PROFILE", "own")
    settings.cache_clear()
    opened = Pipeline.open("own")
    logs.start()
    with dg.DagsterInstance.get() as instance:
        materialize(opened, instance, select=opened.named("manifest/mine"))
        table = tmp_path / "jane_roe.csv"
        table.write_text(f"image_path,label,split,source\n{root}/Jane Roe 0.png,Happy,train,mine\n")
        adopt_foreign(opened, table, instance, roots=[tmp_path], replace=True)
    # Only now: this database does not answer.
    monkeypatch.setenv("FER_POSTGRES", SECRETS["FER_POSTGRES"])
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    settings.cache_clear()
    (tmp_path / "dagster.yaml").write_text(
        "python_logs: {managed_python_loggers: [fer_ml], python_log_level: INFO}\n"
        "storage: {postgres: {postgres_url: {env: FER_POSTGRES}, note: pg-pass-03ff}}\n"
        "other: {db_password: 42424242, port: 5432}\n"
    )
    try:
        raise FerError("Jane Roe's photo is missing", code="missing-photo", where=root)
    except FerError:
        logging.getLogger("fer_ml.sources.raw").exception("%s: failed", root)
    return Pipeline.open("own")


@pytest.mark.threat(
    "a support bundle holds a secret, a face or a person's name",
    "Its content is chosen, not filtered. Every byte is then compared with this machine's "
    "secrets and folders.",
)
def test_a_bundle_helps_and_holds_no_secret_name_or_image(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    # Without this the test could pass because nothing was planted.
    made = pipeline.store.home("manifest/mine")
    assert "Jane Roe" in next(made.rglob("record.json")).read_text()
    assert "Jane Roe broken" in next(made.rglob("quarantine.csv")).read_text()
    held = pipeline.store.current("adopted", "jane_roe")
    assert held is not None and "jane_roe.csv" in held.record.files
    path = tmp_path / "bundle.zip"
    names = write_bundle(pipeline, examine(pipeline), path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert list(files) == names
    told = json.loads(files["manifest.json"])
    assert set(told["files"]) == set(names) - {"manifest.json"}
    image = next(tmp_path.rglob("Jane Roe 0.png")).read_bytes()
    for text in [*NOWHERE, str(tmp_path), str(pipeline.settings.home), str(Path.home() / "x")[:-1]]:
        for name, data in {**files, "the zip": path.read_bytes()}.items():
            assert text.encode() not in data, f"{text} is in {name}"
    for start in range(0, len(image) - 16, 16):
        assert not [n for n, data in files.items() if image[start : start + 16] in data]
    artifacts = {a["asset"]: a for a in json.loads(files["artifacts.json"])}
    record = pipeline.store.current("manifest/mine")
    assert record is not None
    assert artifacts["manifest/mine"]["sha256"] == record.sha256
    assert artifacts["manifest/mine"]["summary"]["cpu_seconds"] > 0
    assert {r["rule"]: r["passed"] for r in artifacts["manifest/mine"]["receipts"]} == {
        r.rule: r.passed for r in record.receipts().values()
    }
    assert artifacts["adopted"]["partition"] == "adopted0"
    fault = json.loads(files["logs.json"])[-1]
    assert (fault["event"], fault["error"]) == ("%s: failed", "FerError")
    assert fault["frames"][0].endswith(" pipeline")
    set_here = json.loads(files["settings.json"])["set"]
    assert {"FER_SMTP", "FER_WEBHOOK", "FER_POSTGRES"} <= set(set_here)
    shape = json.loads(files["dagster.json"])
    assert shape["storage"]["postgres"] == {
        "postgres_url": {"env": "FER_POSTGRES"},
        "note": "<text>",
    }
    assert shape["other"] == {"db_password": "<text>", "port": "5432"}
    with refused("output-exists", where=path):
        write_bundle(pipeline, [], path)


@pytest.mark.threat("a support bundle holds a secret, a face or a person's name")
def test_a_secret_that_got_in_stops_it(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An asset's name goes in: a secret that is one shows that the last look sees all bytes.
    monkeypatch.setenv("SOME_TOKEN", "manifest/mine")
    with refused("secret-in-support-file") as caught:
        write_bundle(pipeline, [], tmp_path / "bundle.zip")
    assert "manifest/mine" not in str(caught.value)
    assert not (tmp_path / "bundle.zip").exists()
