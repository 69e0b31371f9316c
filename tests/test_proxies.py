"""Proxies and certificates of the user's shell: obeyed on the way out, and never in the way on this machine."""

import os
from pathlib import Path
from unittest.mock import patch
from urllib.request import getproxies, proxy_bypass_environment

import certifi
import httpx
import pytest
import requests

from landuse.core.environment import own_environment
from landuse.core.errors import LanduseError
from landuse.core.proxies import hidden, refuse_unspoken_proxy, shown
from landuse.ingest.download import fetch
from landuse.tracking.backend_store import reach

SOCKS = "socks5://me:secret@127.0.0.1:1080"
UNSPOKEN = (
    SOCKS,
    "socks5h://x:1",
    "socks://x:1",
    "socks4://x:1",
    "ftp://x",
    "http://x:port",
    "://x",
    "http:x",
    "http://",
)
DIRECT = (
    *("[::1]", "localhost,[::1]", "[::1]:8080", "fe80::/10", "[fe80::1]/64", "localhost 127.0.0.1", "a;b", "host:name"),
    *(
        "b\u00fccher.example",
        "*.example.org",
        ".example.org",
        "<local>",
        "http://[::1]",
        "::1%eth0",
        "10.0.0.0/8",
        "?#@",
    ),
)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch):
    """Sets variables in an environment that names neither proxies nor certificates."""
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):

        def own(**more: str) -> None:
            os.environ.update(more)
            own_environment()

        yield own


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "https_proxy"])
@pytest.mark.parametrize("proxy", UNSPOKEN)
def test_no_proxy_keeps_prefect_from_a_server_on_this_machine(shell, name: str, proxy: str) -> None:
    shell(**{name: proxy})
    with patch.dict(os.environ, hidden()):
        httpx.Client().close()
        assert hidden().keys() >= {name}  # it is no other the second time
        with patch.dict(os.environ, shown()):
            assert os.environ[name] == proxy


@pytest.mark.parametrize("direct", DIRECT)
def test_every_list_of_hosts_without_a_proxy_can_be_read(shell, direct: str) -> None:
    shell(NO_PROXY=direct, HTTP_PROXY="http://127.0.0.1:9")
    httpx.Client().close()
    assert all(proxy_bypass_environment(host) for host in ("127.0.0.1", "localhost", "::1"))


def test_hosts_that_the_user_has_asked_directly_are(shell) -> None:
    shell(NO_PROXY="a.example [fd00::2] B\u00dcCHER.example", HTTPS_PROXY="http://127.0.0.1:9")
    assert os.environ["no_proxy"].split(",")[:2] == ["a.example", "fd00::2"]
    for host in ("a.example", "fd00::2", "xn--bcher-kva.example"):
        assert proxy_bypass_environment(host)
    assert not proxy_bypass_environment("b.example")


def test_a_proxy_for_everything_is_one_for_every_library(shell) -> None:
    shell(ALL_PROXY="http://proxy.example:3128")
    assert getproxies()["http"] == getproxies()["https"] == "http://proxy.example:3128"
    os.environ.clear()
    shell(ALL_PROXY="http://proxy.example:3128", http_proxy="")
    assert "http" not in getproxies() and getproxies()["https"] == "http://proxy.example:3128"


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_nothing_is_asked_past_a_proxy_that_cannot_be_gone_through(shell, name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell(**{name: SOCKS}, MLFLOW_TRACKING_URI="https://runs.example")
    for refused in (lambda: fetch("https://tiles.example/a.zip", "sha256:0"), lambda: reach().__enter__()):
        with pytest.raises(LanduseError, match=f"^{name} = socks5://[^\n]*HTTPS_PROXY[^\n]*NO_PROXY") as refusal:
            refused()
        assert "secret" not in str(refusal.value)
    with patch.dict(os.environ, hidden()), pytest.raises(LanduseError, match=name):  # also within a flow
        refuse_unspoken_proxy("https://tiles.example/a.zip")


def test_a_host_that_needs_no_proxy_is_not_refused(shell) -> None:
    shell(ALL_PROXY=SOCKS, NO_PROXY="tiles.example", HTTPS_PROXY="http://proxy.example")
    for url in ("http://tiles.example/a.zip", "http://127.0.0.1:5000", "http://[::1]:5000", "https://other.example"):
        refuse_unspoken_proxy(url)
    with pytest.raises(LanduseError, match="ALL_PROXY"):
        refuse_unspoken_proxy("http://other.example")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("there", ["nowhere.pem", "empty.pem", "no.pem"])
def test_certificates_that_are_not_there_are_passed_over(shell, name: str, there: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "no.pem").write_bytes(b"\x00no certificate")
    shell(**{name: str(tmp_path / there)})
    httpx.Client().close()
    with pytest.raises(requests.ConnectionError):  # and not for want of a file
        requests.get("https://127.0.0.1:9", timeout=5)


def test_certificates_of_the_user_are_kept(shell, tmp_path: Path) -> None:
    shell(SSL_CERT_FILE=certifi.where(), SSL_CERT_DIR=str(tmp_path))
    assert os.environ["SSL_CERT_FILE"] == certifi.where() and os.environ["SSL_CERT_DIR"] == str(tmp_path)
