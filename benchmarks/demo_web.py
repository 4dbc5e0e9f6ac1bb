"""Time that the demo's web path adds to a frame on loopback, and its memory growth.

python benchmarks/demo_web.py [--bundle FOLDER] [--clips FOLDER] [--minutes 10]
                              [--fps 30] [--json FILE]

The server runs in a process of its own. A client sends JPEG frames of a real clip (looped, 640x480)
over a WebSocket, one at a time at a camera's rate, and waits for each answer. The time added is
from sending to the answer, minus the frame's processing time as measured by the server: both
sockets, decoding the JPEG, and the reply. Memory is the server's resident set.
"""

import argparse
import json
import multiprocessing
import statistics
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
from demo import SHARED, looped
from websockets.sync.client import connect

from demo_app.detection import make_detector
from demo_app.parameters import parameters_for
from demo_app.shipped import SHIPPED
from demo_app.web import serve
from fer_ml.bundles.bundle import load_bundle
from fer_ml.figures.measurements import Benchmark, Figure, json_option, publish

QUALITY = 85
WARM_UP_S = 5.0


def run_server(bundle: Path, ready: Connection) -> None:
    held = load_bundle(bundle)
    serve(
        held,
        lambda: make_detector("yunet"),
        parameters_for(held.card),
        Path("nothing-is-recorded"),
        port=0,
        on_ready=ready.send,
    )


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=SHIPPED)
    parser.add_argument("--clips", type=Path, default=SHARED / "data" / "faces")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--fps", type=float, default=30.0)
    json_option(parser)
    given = parser.parse_args()
    clip = sorted(given.clips.glob("*.gif"))[-1]
    jpegs = [
        cv2.imencode(
            ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )[1].tobytes()
        for image in looped(clip, 100)
    ]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=run_server, args=(given.bundle, theirs))
    server.start()
    try:
        link = ours.recv()
        assert server.pid is not None
        figures = stream(link, jpegs, given.minutes, given.fps, server.pid)
    finally:
        server.terminate()
        server.join()
    publish(
        Benchmark(
            title="The demo's web page",
            data=f"{given.minutes:g} minutes of {clip.name} at {given.fps:g} frames a second, over "
            "loopback.",
            figures=figures,
        ),
        given.json,
    )


def stream(
    link: str, jpegs: list[bytes], minutes: float, fps: float, pid: int
) -> tuple[Figure, ...]:
    host, _, token = link.removeprefix("http://").partition("/?token=")
    by_minute: dict[int, list[tuple[float, float]]] = {}
    memory: dict[int, float] = {}
    with connect(
        f"ws://{host}/stream?token={token}", origin=f"http://{host}", compression=None
    ) as socket:
        socket.recv()
        begin = due = time.perf_counter()
        index = 0
        while (now := time.perf_counter()) - begin < 60 * minutes:
            if now < due:
                time.sleep(due - now)
            due = max(due + 1 / fps, time.perf_counter())
            message = struct.pack("<d", 0.0) + jpegs[index % len(jpegs)]
            start = time.perf_counter()
            socket.send(message)
            answer = socket.recv()
            trip_ms = 1e3 * (time.perf_counter() - start)
            reply = json.loads(answer)
            index += 1
            if start - begin > WARM_UP_S:
                minute = int((start - begin) // 60)
                by_minute.setdefault(minute, []).append((trip_ms, reply["frame_ms"]))
                memory[minute] = resident_mib(pid) if index % 50 == 0 else memory.get(minute, 0.0)
    pairs = [pair for minute in by_minute.values() for pair in minute]
    last, first = max(memory), min(memory)
    return (
        Figure(name="frames answered", measured=index, unit=""),
        Figure(name="frames dropped", measured=reply["dropped"], unit="", at_most=0),
        Figure(
            name="there and back, p50",
            measured=statistics.median(trip for trip, _ in pairs),
            unit="ms",
        ),
        Figure(
            name="of it added by the web path, p50",
            measured=statistics.median(trip - frame for trip, frame in pairs),
            unit="ms",
        ),
        Figure(
            name="growth of the server's memory from the first minute to the last",
            measured=memory[last] / memory[first],
            over="its memory in the first minute",
            at_most=1.02,
        ),
    )


if __name__ == "__main__":
    main()
