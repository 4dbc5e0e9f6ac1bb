"""Who is told a link can open it."""

import threading
from queue import Queue
from urllib.request import urlopen

import uvicorn

from fer_ml.base.ports import Server, open_port


async def hello(scope, receive, send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


def test_when_a_server_says_that_it_is_ready_a_page_is_answered_at_once() -> None:
    listener = open_port(0)
    told: Queue[bool] = Queue()
    config = uvicorn.Config(hello, log_level="critical", lifespan="off")
    server = Server(config, lambda: told.put(server.started))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    assert told.get(timeout=10)
    with urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=10) as page:
        assert page.read() == b"hello"
    server.should_exit = True
    thread.join(10)
    listener.close()
