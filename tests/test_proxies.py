"""Proxies and certificates from the environment: used for other machines, bypassed for this one."""

import os
from pathlib import Path
from unittest.mock import patch
from urllib.request import getproxies, proxy_bypass_environment

import certifi
import httpx
import pytest
import requests

from landuse.core.environment import sanitize_environment
from landuse.core.errors import LanduseError
from landuse.core.proxies import hide_unsupported_proxies, refuse_unsupported_proxy, restore_hidden_proxies
from landuse.ingest.download import fetch
from landuse.tracking.backend_store import connect

SOCKS = "socks5://me:secret@127.0.0.1:1080"
UNSUPPORTED = (
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
NO_PROXY_LISTS = (
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
    """Return a function that sets variables in an environment without proxies, and applies the policy."""
    with patch.dict(os.environ, {"PATH": os.environ["PATH"]}, clear=True):

        def set_variables(**more: str) -> None:
            os.environ.update(more)
            sanitize_environment()

        yield set_variables


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "https_proxy"])
@pytest.mark.parametrize("proxy", UNSUPPORTED)
def test_an_unsupported_proxy_does_not_keep_prefect_from_a_local_server(shell, name: str, proxy: str) -> None:
    shell(**{name: proxy})
    with patch.dict(os.environ, hide_unsupported_proxies()):
        httpx.Client().close()
        assert hide_unsupported_proxies().keys() >= {name}  # also on the second call
        with patch.dict(os.environ, restore_hidden_proxies()):
            assert os.environ[name] == proxy


@pytest.mark.parametrize("no_proxy", NO_PROXY_LISTS)
def test_every_no_proxy_list_can_be_read(shell, no_proxy: str) -> None:
    shell(NO_PROXY=no_proxy, HTTP_PROXY="http://127.0.0.1:9")
    httpx.Client().close()
    assert all(proxy_bypass_environment(host) for host in ("127.0.0.1", "localhost", "::1"))


def test_hosts_that_the_user_excludes_bypass_the_proxy(shell) -> None:
    shell(NO_PROXY="a.example [fd00::2] B\u00dcCHER.example", HTTPS_PROXY="http://127.0.0.1:9")
    assert os.environ["no_proxy"].split(",")[:2] == ["a.example", "fd00::2"]
    for host in ("a.example", "fd00::2", "xn--bcher-kva.example"):
        assert proxy_bypass_environment(host)
    assert not proxy_bypass_environment("b.example")


def test_all_proxy_applies_to_every_library(shell) -> None:
    shell(ALL_PROXY="http://proxy.example:3128")
    assert getproxies()["http"] == getproxies()["https"] == "http://proxy.example:3128"
    os.environ.clear()
    shell(ALL_PROXY="http://proxy.example:3128", http_proxy="")
    assert "http" not in getproxies() and getproxies()["https"] == "http://proxy.example:3128"


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
def test_a_request_that_would_bypass_an_unsupported_proxy_is_refused(shell, name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shell(**{name: SOCKS}, MLFLOW_TRACKING_URI="https://runs.example")
    for request in (lambda: fetch("https://tiles.example/a.zip", "sha256:0"), lambda: connect().__enter__()):
        with pytest.raises(LanduseError, match=f"^{name} = socks5://[^\n]*HTTPS_PROXY[^\n]*NO_PROXY") as refusal:
            request()
        assert "secret" not in str(refusal.value)
    within_a_flow = patch.dict(os.environ, hide_unsupported_proxies())
    with within_a_flow, pytest.raises(LanduseError, match=name):
        refuse_unsupported_proxy("https://tiles.example/a.zip")


def test_a_host_that_needs_no_proxy_is_not_refused(shell) -> None:
    shell(ALL_PROXY=SOCKS, NO_PROXY="tiles.example", HTTPS_PROXY="http://proxy.example")
    for url in ("http://tiles.example/a.zip", "http://127.0.0.1:5000", "http://[::1]:5000", "https://other.example"):
        refuse_unsupported_proxy(url)
    with pytest.raises(LanduseError, match="ALL_PROXY"):
        refuse_unsupported_proxy("http://other.example")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("file_name", ["nowhere.pem", "empty.pem", "no.pem"])
def test_certificates_that_cannot_be_loaded_are_ignored(shell, name: str, file_name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "no.pem").write_bytes(b"\x00no certificate")
    shell(**{name: str(tmp_path / file_name)})
    httpx.Client().close()
    with pytest.raises(requests.ConnectionError):  # not an error about a missing file
        requests.get("https://127.0.0.1:9", timeout=5)


def test_valid_certificates_of_the_user_are_kept(shell, tmp_path: Path) -> None:
    shell(SSL_CERT_FILE=certifi.where(), SSL_CERT_DIR=str(tmp_path))
    assert os.environ["SSL_CERT_FILE"] == certifi.where() and os.environ["SSL_CERT_DIR"] == str(tmp_path)
