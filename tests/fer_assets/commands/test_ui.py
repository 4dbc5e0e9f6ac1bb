import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest

from tests.fer_assets.commands.conftest import Fer, refused
from tests.fer_assets.folders import ROOT
from tests.ui_server import serving


def test_the_link_has_a_token_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    """A guest's UI, which has no daemon; ``test_ui.py`` works in the other."""
    shutil.copy(ROOT / "workspace.yaml", tmp_path)
    shutil.copytree(ROOT / "dagster_home", tmp_path / "dagster_home")
    with serving(tmp_path / "log", "--read-only", cwd=tmp_path) as served:
        assert served.link.startswith(f"{served.address}/fer/?token=")
        assert len(served.link.partition("token=")[2]) >= 32
        told = served.ask("mutation { wipeAssets(assetPartitionRanges: []) { __typename } }")
        assert told["wipeAssets"]["__typename"] == "UnauthorizedError"
        with pytest.raises(HTTPError) as caught:
            replace(served, link=served.link[:-1]).ask("{ version }")
        with caught.value as answer:
            assert answer.code == 403
        port = int(served.address.rpartition(":")[2])
        listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == port}
        assert listening == {"127.0.0.1"}
        children = psutil.Process(served.process.pid).children(recursive=True)
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(60) == 128 + signal.SIGINT
        psutil.wait_procs(children, timeout=60)
        assert not [child for child in children if child.is_running()]
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("variable", ["DAGSTER_HOME", "FER_HOME", "FER_PROJECT"])
def test_a_relative_path_is_refused_since_its_processes_start_elsewhere(
    fer: Fer, variable: str
) -> None:
    done = fer("ui", **{variable: "."})
    refused(done, "code: invalid-setting", variable)
    assert done.returncode == 1


@pytest.mark.parametrize("port", [None, 70000])
def test_a_port_that_cannot_be_opened_is_told_before_anything_starts(
    fer: Fer, port: int | None
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = fer("ui", "--port", str(taken.getsockname()[1] if port is None else port))
    refused(done, "--port")
    assert done.returncode == 1
