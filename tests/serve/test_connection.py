"""Stalled, malformed and excess connections: each is closed in time and without a reset, and nothing is logged."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic, sleep

import pytest
from raw import connect, exchange, read_to_end, request
from running import fetch, serve_in_thread, wait_until

from landuse.serve import connection, middleware, server
from landuse.serve.metrics import Metrics
from landuse.serve.predictor import Predictor

CHUNKED = "Transfer-Encoding: chunked"
MALFORMED = {
    "garbage": "\0\1\2\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "no host": "GET /ping HTTP/1.1\r\n\r\n",
    "two hosts": request("GET /ping", "Host: localhost"),
    "two lengths": request("POST /predict", "Content-Length: 4", "Content-Length: 5"),
    "a length below 0": request("POST /predict", "Content-Length: -1"),
    "5,000 digits": request("POST /predict", "Content-Length: " + "9" * 5000),
    "gzip": request("POST /predict", "Transfer-Encoding: gzip, chunked"),
    "an invalid chunk": request("POST /predict", CHUNKED) + "ZZ\r\n",
    "a chunk too long": request("POST /predict", CHUNKED) + "3\r\nabcXX",
    "a chunk after the reply": request("POST /invocations", "Content-Type: text/plain", CHUNKED) + "ZZ\r\n",
    "after a valid request": request("GET /ping") + request("POST /predict", CHUNKED) + "ZZ\r\n",
    "endless headers": "GET /ping HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 100_000,
}
REFUSED = {
    413: request("POST /predict", "Content-Length: 99999999999"),
    400: request("POST /predict", "Content-Length: 5", CHUNKED),
    415: request("POST /invocations", "Content-Type: text/plain", CHUNKED),
    405: request("PUT /invocations", "Content-Type: application/json", CHUNKED),
    421: request("POST /predict", CHUNKED, host="evil.example"),
    403: request("POST /predict", CHUNKED, "Origin: null"),
}


@pytest.fixture(autouse=True)
def check_nothing_logged(capfd: pytest.CaptureFixture) -> Iterator[None]:
    """Nothing that clients send reaches the log."""
    yield
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_is_a_bad_request_and_closes_the_connection(url: str, name: str) -> None:
    received = exchange(url, MALFORMED[name])
    assert 400 <= received.statuses[-1] < 500 and "\n" not in received.message
    assert "connection: close" in received.text.lower()
    assert received.seconds < 10 and fetch(url, "/ping").status == 200


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize("expects", ["", "Expect: 100-continue\r\n"])
def test_a_request_is_refused_and_closed_before_its_body_arrives(url: str, status: int, expects: str) -> None:
    received = exchange(url, REFUSED[status].replace("\r\n", f"\r\n{expects}", 1))
    assert received.statuses == [status] and "connection: close" in received.text.lower() and received.seconds < 5


@pytest.mark.parametrize("status", [*REFUSED, "chunks"])
def test_no_more_of_a_refused_body_is_read_than_the_size_limit(url: str, status: int | str, monkeypatch) -> None:
    monkeypatch.setattr(connection.Connection, "linger_bytes_left", 1_000_000)
    monkeypatch.setattr(middleware, "MAX_BODY_BYTES", 1_000_000)
    limit, sent = 30_000_000, 0  # generous: the kernel buffers on both sides are beyond the server's control
    with connect(url) as sock:
        sock.sendall(REFUSED.get(status, request("POST /predict", CHUNKED)).encode())
        with pytest.raises(ConnectionError):
            while sent < 10 * limit:
                sock.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
                sent += 0x100000
    assert sent < limit


def test_the_server_closes_if_a_refused_client_does_not(url: str, monkeypatch) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.2)
    with connect(url) as sock:
        sock.sendall(REFUSED[413].encode())
        assert read_to_end(sock).statuses == [413]
        with pytest.raises(ConnectionError):
            for _ in range(50):
                sleep(0.1)
                sock.sendall(b"a")


SLOW = {
    "silent": ("", "", []),
    "half the headers": ("GET /ping HTT", "", [408]),
    "slow headers": (request("GET /ping")[:-2], "X: y\r\n", [408]),
    "slow headers of a second request": (request("GET /ping") + "GET /pi", "n", [200, 408]),
    "a slow body": (request("POST /predict", "Content-Length: 1000"), "a", [408]),
    "slow chunks": (request("POST /predict", CHUNKED), "1\r\na\r\n", [408]),
    "slow trailers": (request("POST /predict", CHUNKED) + "0\r\n", "a: b\r\n", [408]),
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_requests_time_out(url: str, monkeypatch, name: str) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.4)
    start_bytes, drip, statuses = SLOW[name]
    with connect(url) as sock:
        sock.sendall(start_bytes.encode())
        start = monotonic()
        for _ in range(6 if drip else 0):
            sleep(0.1)
            sock.sendall(drip.encode())
        assert read_to_end(sock).statuses == statuses and monotonic() - start < 5


def test_an_idle_keep_alive_connection_is_closed(predictor: Predictor, monkeypatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0.2)
    with serve_in_thread(Predictor(predictor.model, Metrics(), None, None)) as url:
        assert exchange(url, request("GET /ping")).statuses == [200]


def test_a_body_at_a_steady_pace_may_take_longer(url: str, monkeypatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(middleware, "MIN_BYTES_PER_SECOND", 10_000)
    with connect(url) as sock:
        sock.sendall(request("POST /predict", "Content-Length: 12000", "Connection: close").encode())
        for _ in range(6):
            sleep(0.1)
            sock.sendall(bytes(2000))
        assert read_to_end(sock).message == "image cannot be decoded: not a TIFF, JPEG, PNG or WebP image"


def test_a_client_that_does_not_read_the_reply_is_disconnected(url: str, predictor: Predictor, monkeypatch) -> None:
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(connection, "MIN_BYTES_PER_SECOND", 1e9)
    monkeypatch.setattr(predictor.metrics, "render", lambda: bytes(30_000_000))
    with connect(url, receive_buffer=4096) as sock:
        sock.sendall(request("GET /metrics").encode())
        sleep(1.5)
        assert len(read_to_end(sock).text) < 20_000_000  # only what the kernel had buffered


def test_excess_connections_get_503_and_are_closed(url: str, monkeypatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 8)
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(url)) for _ in range(30)]
        wait_until(lambda: sum(map(is_readable, sockets)) >= 22)
        refused = [read_to_end(sock) for sock in sockets if is_readable(sock)]
        assert all(received.statuses == [503] and "retry-after: 5" in received.text for received in refused)
        assert fetch(url, "/ping").status == 503
    wait_until(lambda: fetch(url, "/ping").status == 200)


def is_readable(sock: socket.socket) -> bool:
    """Return whether a connection has data to read right now."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        sock.settimeout(20)


def test_pipelined_requests_are_answered_in_order_and_upgrades_ignored(url: str) -> None:
    upgrade = ("Connection: Upgrade, close", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
    assert exchange(url, request("GET /ping") * 4 + request("GET /made/up", *upgrade)).statuses == [200] * 4 + [404]
