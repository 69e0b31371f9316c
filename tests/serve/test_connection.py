"""Connections that do not end, or not as they should: each is closed in time and cleanly, and the log is silent."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep

import pytest
from raw import dial, hear, request, tell
from running import ask, in_this_process, wait_until

from landuse.serve import connection, middleware, server
from landuse.serve.metrics import Metrics
from landuse.serve.predictor import Answers

CHUNKED = "Transfer-Encoding: chunked"
MALFORMED = {
    "rubbish": "\0\1\2\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "no host": "GET /ping HTTP/1.1\r\n\r\n",
    "two hosts": request("GET /ping", "Host: localhost"),
    "two lengths": request("POST /look", "Content-Length: 4", "Content-Length: 5"),
    "a length below 0": request("POST /look", "Content-Length: -1"),
    "5,000 digits": request("POST /look", "Content-Length: " + "9" * 5000),
    "gzip": request("POST /look", "Transfer-Encoding: gzip, chunked"),
    "no chunk": request("POST /look", CHUNKED) + "ZZ\r\n",
    "a chunk too long": request("POST /look", CHUNKED) + "3\r\nabcXX",
    "a chunk of an answered request": request("POST /invocations", "Content-Type: text/plain", CHUNKED) + "ZZ\r\n",
    "after a good one": request("GET /ping") + request("POST /look", CHUNKED) + "ZZ\r\n",
    "headers without end": "GET /ping HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 100_000,
}
REFUSED = {
    413: request("POST /look", "Content-Length: 99999999999"),
    400: request("POST /look", "Content-Length: 5", CHUNKED),
    415: request("POST /invocations", "Content-Type: text/plain", CHUNKED),
    405: request("PUT /invocations", "Content-Type: application/json", CHUNKED),
    421: request("POST /look", CHUNKED, host="evil.example"),
    403: request("POST /look", CHUNKED, "Origin: null"),
}


@pytest.fixture(autouse=True)
def silent(capfd: pytest.CaptureFixture) -> Iterator[None]:
    """Whatever is sent, the log says nothing of it."""
    yield
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_a_bad_request_and_closed(place: str, name: str) -> None:
    heard = tell(place, MALFORMED[name])
    assert 400 <= heard.statuses[-1] < 500 and "connection: close" in heard.text.lower() and "\n" not in heard.message
    assert heard.seconds < 10 and ask(place, "/ping").status == 200


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize("expects", ["", "Expect: 100-continue\r\n"])
def test_a_refused_request_is_answered_and_closed_while_its_body_is_still_to_come(
    place: str, status: int, expects: str
) -> None:
    heard = tell(place, REFUSED[status].replace("\r\n", f"\r\n{expects}", 1))
    assert heard.statuses == [status] and "connection: close" in heard.text.lower() and heard.seconds < 5


@pytest.mark.parametrize("status", [*REFUSED, "chunks"])
def test_of_a_refused_body_no_more_is_read_than_a_request_may_have(place: str, status: int | str, monkeypatch) -> None:
    monkeypatch.setattr(connection.Connection, "spare", 1_000_000)
    monkeypatch.setattr(middleware, "LARGEST_BODY", 1_000_000)
    most, sent = 30_000_000, 0  # what the system holds for both sides is beyond the server
    with dial(place) as plug:
        plug.sendall(REFUSED.get(status, request("POST /look", CHUNKED)).encode())
        with pytest.raises(ConnectionError):
            while sent < 10 * most:
                plug.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
                sent += 0x100000
    assert sent < most


def test_a_refused_client_that_does_not_close_is_closed(place: str, monkeypatch) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.2)
    with dial(place) as plug:
        plug.sendall(REFUSED[413].encode())
        assert hear(plug).statuses == [413]
        with pytest.raises(ConnectionError):
            for _ in range(50):
                sleep(0.1)
                plug.sendall(b"a")


SLOW = {
    "silent": ("", "", []),
    "half a header": ("GET /ping HTT", "", [408]),
    "a header that drips": (request("GET /ping")[:-2], "X: y\r\n", [408]),
    "a second header that drips": (request("GET /ping") + "GET /pi", "n", [200, 408]),
    "a body that drips": (request("POST /look", "Content-Length: 1000"), "a", [408]),
    "chunks that drip": (request("POST /look", CHUNKED), "1\r\na\r\n", [408]),
    "trailers that drip": (request("POST /look", CHUNKED) + "0\r\n", "a: b\r\n", [408]),
}


@pytest.mark.parametrize("name", SLOW)
def test_who_does_not_come_to_an_end_is_not_waited_for(place: str, monkeypatch, name: str) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.4)
    begin, drop, statuses = SLOW[name]
    with dial(place) as plug:
        plug.sendall(begin.encode())
        start = monotonic()
        for _ in range(6 if drop else 0):
            sleep(0.1)
            plug.sendall(drop.encode())
        assert hear(plug).statuses == statuses and monotonic() - start < 5


def test_an_answered_client_that_asks_nothing_more_is_let_go(answers: Answers, monkeypatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    with in_this_process(Answers(answers.model, Metrics(), None, None)) as place:
        assert tell(place, request("GET /ping")).statuses == [200]


def test_a_body_that_comes_at_a_fair_pace_may_take_longer_than_one_that_drips(place: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(middleware, "SLOWEST", 10_000)
    with dial(place) as plug:
        plug.sendall(request("POST /look", "Content-Length: 12000", "Connection: close").encode())
        for _ in range(6):
            sleep(0.1)
            plug.sendall(bytes(2000))
        assert hear(plug).message == "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"


def test_who_does_not_read_the_answer_is_let_go(place: str, answers: Answers, monkeypatch) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(connection, "SLOWEST", 1e9)
    monkeypatch.setattr(answers.metrics, "text", lambda: bytes(30_000_000))
    with dial(place, receive_buffer=4096) as plug:
        plug.sendall(request("GET /metrics").encode())
        sleep(1.5)
        assert len(hear(plug).text) < 20_000_000  # as much as the system had taken in


def test_beyond_the_most_connections_one_is_told_so_and_closed(place: str, monkeypatch) -> None:
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 8)
    with ExitStack() as stack:
        crowd = [stack.enter_context(dial(place)) for _ in range(30)]
        wait_until(lambda: sum(map(is_answered, crowd)) >= 22)
        told = [hear(plug) for plug in crowd if is_answered(plug)]
        assert all(heard.statuses == [503] and "retry-after: 5" in heard.text for heard in told)
        assert ask(place, "/ping").status == 503
    wait_until(lambda: ask(place, "/ping").status == 200)


def is_answered(plug: socket.socket) -> bool:
    """Whether a connection has something to read, without waiting for it."""
    plug.setblocking(False)
    try:
        return bool(plug.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        plug.settimeout(20)


def test_requests_in_a_row_on_one_connection_are_answered_in_order_and_upgrades_are_not_taken(place: str) -> None:
    upgrade = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
    assert tell(place, request("GET /ping") * 4 + request("GET /made/up", *upgrade)).statuses == [200] * 4 + [404]
