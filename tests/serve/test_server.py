"""`landuse serve` as a real process: promotions while it runs, orderly shutdown, and kills."""

import json
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from time import sleep

import gallery
import psutil
import pytest
from pyarrow import parquet
from running import Reply, as_base64, fetch, gradient, score, serve_process, wait_until

from landuse import registry, tracking
from landuse.core import paths
from landuse.ml.classifier import Classifier

pytestmark = pytest.mark.slow
FREQUENT_WRITES = "from landuse.serve import prediction_log; prediction_log.BATCH_SECONDS = 0.2"
NO_TENSORFLOW = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
IMAGE = paths.DATA / "forest" / "05.png"


def change(folder: Path, before: str, after: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert before in text
    (folder / "params.yaml").write_text(text.replace(before, after))


def set_champion(number: int) -> None:
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, str(number))


def test_the_champion_is_served_without_tensorflow(served: Path) -> None:
    with serve_process(code=NO_TENSORFLOW) as (_, url):
        reply = score(url, as_base64(IMAGE))
        assert reply.version == "models:/served/1"
        assert fetch(url, "/version").content["follows"] == "models:/served@champion"
        assert reply.content["predictions"] == [Classifier(paths.MODEL).predict(IMAGE).model_dump()]
        nearest = fetch(url, "/predict", IMAGE.read_bytes()).content["nearest"]
        assert len(nearest) == 6 and {example["label"] for example in nearest} == {"forest"}


def test_promotions_under_load_fail_no_request_and_replies_name_their_version(registry_copy: Path) -> None:
    change(registry_copy, "follow_seconds: 5", "follow_seconds: 0.2")
    set_champion(1)
    body, ended = as_base64(IMAGE), Event()

    def keep_asking(url: str) -> list[Reply]:
        replies = []
        while not ended.is_set():
            replies.append(score(url, body))
        return replies

    with serve_process() as (_, url), ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(keep_asking, url) for _ in range(4)]
        try:
            for number in (2, 1, 2, 1):
                set_champion(number)
                wait_until(lambda: fetch(url, "/ping").version.endswith(f"/{number}"))  # noqa: B023
        finally:
            ended.set()
    replies = [reply for client in clients for reply in client.result()]
    label = {"models:/gallery/1": "forest", "models:/gallery/2": "field"}
    assert {reply.status for reply in replies} == {200} and {reply.version for reply in replies} == set(label)
    assert all(reply.content["predictions"][0]["label"] == label[reply.version] for reply in replies)


def test_a_pinned_version_is_not_reloaded(registry_copy: Path) -> None:
    change(registry_copy, "follow_seconds: 5", "follow_seconds: 0.1")
    set_champion(1)
    with serve_process("--model", "models:/gallery/1") as (server, url):
        set_champion(2)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(1)
        reply = fetch(url, "/version")
        assert reply.version == "models:/gallery/1" and reply.content["follows"] is None


def count_rows(folder: Path) -> int:
    """Count the logged rows; every file must be readable."""
    return sum(parquet.read_metadata(file).num_rows for file in folder.glob("day=*/[!.]*"))


def test_written_rows_survive_a_kill_and_a_shutdown_loses_none(served_copy: Path) -> None:
    change(served_copy, "log: null", "log: artifacts/served")
    folder = served_copy / "artifacts" / "served"
    with serve_process(code=FREQUENT_WRITES) as (server, url):
        for _ in range(5):
            score(url, as_base64(IMAGE))
        wait_until(lambda: count_rows(folder) == 5)
        score(url, as_base64(IMAGE))
        server.kill()
        server.wait(30)
    assert count_rows(folder) in (5, 6)
    before = count_rows(folder)
    with serve_process() as (server, url):
        score(url, *[as_base64(IMAGE)] * 3)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        assert server.stderr.read() == ""
    assert count_rows(folder) == before + 3


def test_clients_are_answered_or_refused_but_never_reset_during_shutdown(served: Path) -> None:
    ended, body = Event(), json.dumps({"inputs": [as_base64(IMAGE)]})

    def keep_asking(url: str, keep_alive: bool) -> list[int]:
        statuses = []
        while not ended.is_set():
            try:
                connection = socket.create_connection((url[7:-1].split(":")[0], int(url[:-1].rpartition(":")[2])))
            except ConnectionRefusedError:
                return statuses
            with closing(HTTPConnection(url[7:-1])) as client:
                client.sock = connection
                for _ in range(1000 if keep_alive else 1):
                    client.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                    with client.getresponse() as response:
                        response.read()
                        statuses.append(response.status)
                        if response.will_close:
                            break
        return statuses

    with serve_process() as (server, url), ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking, url, bool(number % 2)) for number in range(8)]
        sleep(1)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        ended.set()
        assert server.stderr.read() == ""
        statuses = [status for client in clients for status in client.result(30)]  # a reset raises here
    assert set(statuses) == {200} and len(statuses) > 50


def test_a_request_that_outlasts_the_shutdown_gets_a_503(served: Path) -> None:
    short_grace = "from landuse.serve import server; server.GRACE_SECONDS = 0.5"
    no_budget = "from landuse.serve import admission; admission.PIXEL_BUDGET = 0"
    large = as_base64(gradient("PNG", "L", (2000, 1001)))
    with serve_process(code=f"{short_grace}\n{no_budget}") as (server, url), ThreadPoolExecutor(1) as pool:
        pending = pool.submit(score, url, large)
        sleep(1)
        server.send_signal(signal.SIGTERM)
        server.wait(10)
        reply = pending.result()
        assert "Traceback" not in server.stderr.read()
    assert reply.status == 503 and "ended before it could answer" in reply.content["message"]


def test_a_taken_port_is_reported_in_one_line(served: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(["landuse", "serve", "--port", str(port)], capture_output=True, text=True)
    message = f"landuse: --host 127.0.0.1 --port {port}: address already in use; name another\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_a_missing_model_is_reported_in_one_line(served: Path) -> None:
    command = ["landuse", "serve", "--port", "0", "--model", "models:/served@nobody"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("landuse: no version of served is nobody")
    assert done.stderr.count("\n") == 1


def test_it_listens_on_loopback_by_default(served: Path) -> None:
    with serve_process() as (server, url):
        assert url.startswith("http://127.0.0.1:")
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
