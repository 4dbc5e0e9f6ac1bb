"""The face detector is fetched whole and right, or not at all."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import demo_app.detection as detection
from fer_assets.doctor import fetch_yunet
from fer_ml.base.errors import FerError
from fer_ml.base.settings import YUNET_FILE

ROOT = Path(__file__).resolve().parents[2]


Serve = Callable[[bytes], list[str]]


@pytest.fixture
def serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[bytes], list[str]]]:
    """Let the detector's address be a server of our own; gives the requests that it saw."""
    servers = []

    def start(data: bytes) -> list[str]:
        seen: list[str] = []

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        monkeypatch.setattr(
            detection, "YUNET_URL", f"http://127.0.0.1:{server.server_port}/yunet.onnx"
        )
        return seen

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.real_data
def test_the_right_bytes_are_kept_and_not_fetched_again(serve: Serve, tmp_path: Path) -> None:
    default = ROOT.parent / "shared" / "models" / "face_detection_yunet_2023mar.onnx"
    real = Path(os.environ.get("FER_YUNET") or default)
    if not real.is_file():
        pytest.skip(f"no YuNet file at {real}")
    seen = serve(real.read_bytes())
    for _ in range(2):
        assert fetch_yunet(tmp_path) == tmp_path / YUNET_FILE
    assert seen == ["/yunet.onnx"]
    assert detection.make_detector("auto", tmp_path / YUNET_FILE).name == "yunet"


@pytest.mark.parametrize(
    "data", [b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(10**6)]
)
def test_other_bytes_are_refused_and_nothing_is_written(
    serve: Serve, tmp_path: Path, data: bytes
) -> None:
    serve(data)
    with pytest.raises(FerError, match="what was downloaded has sha256"):
        fetch_yunet(tmp_path)
    assert not (tmp_path / "models").exists()


def test_without_a_network_it_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "YUNET_URL", "http://127.0.0.1:9/yunet.onnx")
    with pytest.raises(FerError, match="cannot be downloaded") as caught:
        fetch_yunet(tmp_path)
    assert str(tmp_path / YUNET_FILE) in str(caught.value)
