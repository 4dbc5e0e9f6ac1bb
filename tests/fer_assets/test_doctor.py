"""The face detector is fetched whole and right, or not at all."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import demo_app.detection as detection
from fer_assets.doctor import fetch_yunet
from fer_ml.base.errors import FerError
from fer_ml.base.settings import YUNET_FILE, settings

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


@pytest.fixture
def real() -> Path:
    path = settings().yunet
    assert path is not None
    return path


def test_the_right_bytes_are_kept_and_not_fetched_again(
    serve: Serve, tmp_path: Path, real: Path
) -> None:
    seen = serve(real.read_bytes())
    for _ in range(2):
        assert fetch_yunet(tmp_path) == tmp_path / YUNET_FILE
    assert seen == ["/yunet.onnx"]
    assert detection.make_detector("auto", tmp_path / YUNET_FILE).name == "yunet"


def test_a_file_of_ones_own_is_taken_without_a_network(
    serve: Serve, tmp_path: Path, real: Path
) -> None:
    seen = serve(b"")
    assert fetch_yunet(tmp_path, real).read_bytes() == real.read_bytes()
    assert seen == []


@pytest.mark.parametrize("held", [None, b"<html>", bytes(17 << 20)])
def test_another_file_is_refused(tmp_path: Path, held: bytes | None) -> None:
    if held is not None:
        (tmp_path / "mine.onnx").write_bytes(held)
    with pytest.raises(FerError) as caught:
        fetch_yunet(tmp_path / "home", tmp_path / "mine.onnx")
    assert str(caught.value.where) == str(tmp_path / "mine.onnx")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "data", [b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(10**6)]
)
def test_other_bytes_are_refused_and_nothing_is_written(
    serve: Serve, tmp_path: Path, data: bytes
) -> None:
    serve(data)
    with pytest.raises(FerError, match="has sha256"):
        fetch_yunet(tmp_path)
    assert not (tmp_path / "models").exists()


def test_without_a_network_it_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "YUNET_URL", "http://127.0.0.1:9/yunet.onnx")
    with pytest.raises(FerError, match="cannot be downloaded") as caught:
        fetch_yunet(tmp_path)
    assert YUNET_FILE in str(caught.value.fix)
