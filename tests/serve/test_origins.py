"""Requests that name a foreign host or come from other sites' pages are refused; programs are not."""

import pytest
from raw import Received, exchange, request

from landuse.core.origins import OriginCheck

JSON = ("Content-Type: application/json", "Content-Length: 14")
LOOPBACK = ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080"]
FOREIGN = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "a@127.0.0.1", "[::1"]
ODD = [
    "",
    ":8080",
    "0.0.0.0:8080",
    "192.168.1.5",
    "2130706433",
    "localhost:8080, evil.example",
    "localhost/x",
    "xlocalhost",
]


def objection(host: str, address: str = "http://127.0.0.1:8080/") -> int | None:
    found = OriginCheck(address).objection("GET", {b"host": host.encode()})
    return found and found[0]


@pytest.mark.parametrize("host", LOOPBACK)
def test_on_loopback_every_loopback_name_is_accepted_on_any_port(host: str) -> None:
    assert objection(host) is None


@pytest.mark.parametrize("host", [*FOREIGN, *ODD])
def test_on_loopback_all_other_names_are_refused(host: str) -> None:
    assert objection(host) == 421


@pytest.mark.parametrize("address", ["http://0.0.0.0:8080/", "http://[::]:8080/", "http://192.168.1.5:8080/"])
def test_beyond_loopback_addresses_and_non_public_names_are_accepted(address: str) -> None:
    for host in (*LOOPBACK, "192.168.1.5:9000", "[fe80::1]", "serve:8080", "a.local", "serve.ns.svc.cluster.local"):
        assert objection(host, address) is None, host
    for host in FOREIGN:
        assert objection(host, address) == 421, host


def test_the_name_given_with_host_is_accepted() -> None:
    given = OriginCheck("http://192.168.1.5:8080/", "Models.example.com")
    assert given.objection("GET", {b"host": b"models.EXAMPLE.com:9000"}) is None
    assert given.objection("GET", {b"host": b"example.com"})[0] == 421
    local = OriginCheck("http://127.0.0.1:8080/", "localhost")
    assert local.objection("GET", {b"host": b"192.168.1.5"})[0] == 421


def check_refused(received: Received, status: int) -> None:
    """Check for one line of JSON and a closed connection, even if the body had not arrived."""
    assert received.statuses == [status] and "\n" not in received.message
    assert "connection: close" in received.text.lower()
    assert "access-control" not in received.text.lower() and received.seconds < 10


@pytest.mark.parametrize(
    "path", ["GET /", "GET /metrics", "GET /ping", "POST /predict", "POST /invocations", "PUT /made/up"]
)
def test_a_foreign_host_is_refused_on_every_path(url: str, path: str) -> None:
    check_refused(exchange(url, request(path, *JSON, host="evil.example")), 421)


@pytest.mark.parametrize("path", ["POST /predict", "POST /invocations", "OPTIONS /predict", "GET /metrics"])
@pytest.mark.parametrize(
    "header",
    ["Origin: http://evil.example", "Origin: null", "Origin: http://localhost:1", "Sec-Fetch-Site: cross-site"]
    + ["Sec-Fetch-Site: same-site"],
)
def test_a_request_from_a_page_of_another_origin_is_refused(url: str, path: str, header: str) -> None:
    check_refused(exchange(url, request(path, *JSON, header)), 403)


def test_this_servers_page_programs_and_incoming_links_are_accepted(url: str) -> None:
    body = '{"inputs": []}'
    for headers in ((), ("Origin: http://localhost",), ("Sec-Fetch-Site: same-origin", "Origin: https://tls.example")):
        received = exchange(url, request("POST /invocations", *JSON, *headers, "Connection: close") + body)
        assert received.statuses == [200], headers
    link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    assert exchange(url, request("GET /", *link, "Connection: close")).statuses == [200]
    check_refused(exchange(url, request("POST /predict", *link, *JSON)), 403)
    assert exchange(url, "GET /ping HTTP/1.0\r\n\r\n").text.startswith("HTTP/1.1 200")
