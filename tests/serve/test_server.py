"""`landuse serve` as a user starts it: a process of its own, that is promoted under, told to end, and killed."""

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
from running import Reply, ask, drawn, process, score, sent, wait_until

from landuse import registry, tracking
from landuse.core import paths
from landuse.ml.classifier import Classifier

pytestmark = pytest.mark.slow
FORGETFUL = "from landuse.serve import prediction_log; prediction_log.BATCH_SECONDS = 0.2"
NO_TENSORFLOW = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None"
IMAGE = paths.DATA / "forest" / "05.png"


def change(folder: Path, before: str, after: str) -> None:
    text = (folder / "params.yaml").read_text()
    assert before in text
    (folder / "params.yaml").write_text(text.replace(before, after))


def crown(number: int) -> None:
    with tracking.store():
        registry.set_alias(gallery.NAME, registry.CHAMPION, str(number))


def test_the_champion_answers_without_tensorflow_as_its_model_file_does(served: Path) -> None:
    with process(code=NO_TENSORFLOW) as (_, place):
        reply = score(place, sent(IMAGE))
        assert reply.version == "models:/served/1"
        assert reply.content["predictions"] == [Classifier(paths.MODEL).predict(IMAGE).model_dump()]
        nearest = ask(place, "/look", IMAGE.read_bytes()).content["nearest"]
        assert len(nearest) == 6 and {example["label"] for example in nearest} == {"forest"}


def test_promotions_under_load_fail_no_request_and_every_answer_is_of_the_version_it_names(registry_copy: Path) -> None:
    change(registry_copy, "follow_seconds: 5", "follow_seconds: 0.2")
    crown(1)
    body, ended = sent(IMAGE), Event()

    def ask_on(place: str) -> list[Reply]:
        replies = []
        while not ended.is_set():
            replies.append(score(place, body))
        return replies

    with process() as (_, place), ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(ask_on, place) for _ in range(4)]
        try:
            for number in (2, 1, 2, 1):
                crown(number)
                wait_until(lambda: ask(place, "/ping").version.endswith(f"/{number}"))  # noqa: B023
        finally:
            ended.set()
    replies = [reply for client in clients for reply in client.result()]
    label = {"models:/gallery/1": "forest", "models:/gallery/2": "field"}
    assert {reply.status for reply in replies} == {200} and {reply.version for reply in replies} == set(label)
    assert all(reply.content["predictions"][0]["label"] == label[reply.version] for reply in replies)


def test_a_version_that_is_named_stays(registry_copy: Path) -> None:
    change(registry_copy, "follow_seconds: 5", "follow_seconds: 0.1")
    crown(1)
    with process("--model", "models:/gallery/1") as (server, place):
        crown(2)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(1)
        assert ask(place, "/ping").version == "models:/gallery/1"


def logged(folder: Path) -> int:
    """Rows in whole files; every file there is can be read."""
    return sum(parquet.read_metadata(file).num_rows for file in folder.glob("day=*/[!.]*"))


def test_what_is_logged_outlives_a_kill_and_a_server_that_is_told_to_end_loses_nothing(served_copy: Path) -> None:
    change(served_copy, "log: null", "log: artifacts/served")
    folder = served_copy / "artifacts" / "served"
    with process(code=FORGETFUL) as (server, place):
        for _ in range(5):
            score(place, sent(IMAGE))
        wait_until(lambda: logged(folder) == 5)
        score(place, sent(IMAGE))
        server.kill()
        server.wait(30)
    assert logged(folder) in (5, 6)
    before = logged(folder)
    with process() as (server, place):
        score(place, *[sent(IMAGE)] * 3)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        assert server.stderr.read() == ""
    assert logged(folder) == before + 3


def test_who_asks_while_the_server_ends_is_answered_or_refused_and_never_reset(served: Path) -> None:
    ended, body = Event(), json.dumps({"inputs": [sent(IMAGE)]})

    def ask_on(place: str, many_on_one_connection: bool) -> list[int]:
        statuses = []
        while not ended.is_set():
            try:
                connection = socket.create_connection((place[7:-1].split(":")[0], int(place[:-1].rpartition(":")[2])))
            except ConnectionRefusedError:
                return statuses
            with closing(HTTPConnection(place[7:-1])) as client:
                client.sock = connection
                for _ in range(1000 if many_on_one_connection else 1):
                    client.request("POST", "/invocations", body, {"Content-Type": "application/json"})
                    with client.getresponse() as answer:
                        answer.read()
                        statuses.append(answer.status)
                        if answer.will_close:
                            break
        return statuses

    with process() as (server, place), ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask_on, place, bool(number % 2)) for number in range(8)]
        sleep(1)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        ended.set()
        assert server.stderr.read() == ""
        statuses = [status for client in clients for status in client.result(30)]  # whoever was reset fails here
    assert set(statuses) == {200} and len(statuses) > 50


def test_what_takes_too_long_for_the_end_of_the_server_is_told_so(served: Path) -> None:
    short = "from landuse.serve import server; server.FAREWELL_SECONDS = 0.5"
    hold = "from landuse.serve import admission; admission.LARGE_PIXELS = 0"
    large = sent(drawn("PNG", "L", (2000, 1001)))
    with process(code=f"{short}\n{hold}") as (server, place), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(score, place, large)
        sleep(1)
        server.send_signal(signal.SIGTERM)
        server.wait(10)
        reply = asked.result()
        assert "Traceback" not in server.stderr.read()
    assert reply.status == 503 and "ended before it could answer" in reply.content["message"]


def test_a_port_that_is_taken_is_said_in_one_line(served: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(["landuse", "serve", "--port", str(port)], capture_output=True, text=True)
    said = f"landuse: --host 127.0.0.1 --port {port}: address already in use; name another\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_a_model_that_there_is_not_is_said_in_one_line(served: Path) -> None:
    command = ["landuse", "serve", "--port", "0", "--model", "models:/served@nobody"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("landuse: no version of served is nobody")
    assert done.stderr.count("\n") == 1


def test_it_listens_on_loopback_unless_told_otherwise(served: Path) -> None:
    with process() as (server, place):
        assert place.startswith("http://127.0.0.1:")
        listening = [c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"]
        assert listening == ["127.0.0.1"]
