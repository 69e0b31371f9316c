"""Who may ask: requests for other hosts and those of other sites' pages are refused, programs are not."""

import pytest
from raw import Heard, request, tell

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
def test_on_loopback_it_answers_to_its_own_names_whatever_the_port_of_a_tunnel(host: str) -> None:
    assert objection(host) is None


@pytest.mark.parametrize("host", [*FOREIGN, *ODD])
def test_on_loopback_it_answers_to_no_other_name(host: str) -> None:
    assert objection(host) == 421


@pytest.mark.parametrize("address", ["http://0.0.0.0:8080/", "http://[::]:8080/", "http://192.168.1.5:8080/"])
def test_beyond_loopback_it_answers_to_addresses_and_names_that_public_dns_cannot_hold(address: str) -> None:
    for host in (*LOOPBACK, "192.168.1.5:9000", "[fe80::1]", "serve:8080", "a.local", "serve.ns.svc.cluster.local"):
        assert objection(host, address) is None, host
    for host in FOREIGN:
        assert objection(host, address) == 421, host


def test_the_name_that_host_gave_is_its_own() -> None:
    given = OriginCheck("http://192.168.1.5:8080/", "Models.example.com")
    assert given.objection("GET", {b"host": b"models.EXAMPLE.com:9000"}) is None
    assert given.objection("GET", {b"host": b"example.com"})[0] == 421
    local = OriginCheck("http://127.0.0.1:8080/", "localhost")
    assert local.objection("GET", {b"host": b"192.168.1.5"})[0] == 421


def refused(heard: Heard, status: int) -> None:
    """One line of JSON, no model asked, and the connection closed, whatever of the body was still to come."""
    assert heard.statuses == [status] and "\n" not in heard.message and "connection: close" in heard.text.lower()
    assert "access-control" not in heard.text.lower() and heard.seconds < 10


@pytest.mark.parametrize(
    "path", ["GET /", "GET /metrics", "GET /ping", "POST /look", "POST /invocations", "PUT /made/up"]
)
def test_under_a_foreign_name_nothing_is_told(place: str, path: str) -> None:
    refused(tell(place, request(path, *JSON, host="evil.example")), 421)


@pytest.mark.parametrize("path", ["POST /look", "POST /invocations", "OPTIONS /look", "GET /metrics"])
@pytest.mark.parametrize(
    "sign",
    ["Origin: http://evil.example", "Origin: null", "Origin: http://localhost:1", "Sec-Fetch-Site: cross-site"]
    + ["Sec-Fetch-Site: same-site"],
)
def test_a_page_of_another_origin_is_refused(place: str, path: str, sign: str) -> None:
    refused(tell(place, request(path, *JSON, sign)), 403)


def test_its_own_page_and_programs_are_answered_and_a_link_may_lead_to_it(place: str) -> None:
    body = '{"inputs": []}'
    for signs in ((), ("Origin: http://localhost",), ("Sec-Fetch-Site: same-origin", "Origin: https://tls.example")):
        heard = tell(place, request("POST /invocations", *JSON, *signs, "Connection: close") + body)
        assert heard.statuses == [200], signs
    link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    assert tell(place, request("GET /", *link, "Connection: close")).statuses == [200]
    refused(tell(place, request("POST /look", *link, *JSON)), 403)
    assert tell(place, "GET /ping HTTP/1.0\r\n\r\n").text.startswith("HTTP/1.1 200")
