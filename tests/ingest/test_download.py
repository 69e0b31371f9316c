"""An archive is downloaded completely, or not at all."""

import re
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from archives import CHECKS, WRONG, ingest_source, pictures, set_requirements, zip_of

from landuse.core.errors import LanduseError, Unavailable
from landuse.ingest import download

ERRORS = {"/missing.zip": 404, "/limited.zip": 429, "/broken.zip": 500, "/down.zip": 503}


class Web(BaseHTTPRequestHandler):
    """A web server with one archive, and the ways in which a transfer can fail."""

    archive = b""
    requests: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Authorization"]))
        self.path = self.path.partition("?")[0]
        if self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", "/set.zip")
            self.end_headers()
        elif self.path in ERRORS:
            self.send_error(ERRORS[self.path])
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.archive)))
            self.end_headers()
            self.send_archive()

    def send_archive(self) -> None:
        if self.path == "/cut.zip":
            self.wfile.write(self.archive[:1000])
        elif self.path == "/stalled.zip":
            self.wfile.write(self.archive[:1000])
            time.sleep(3)
        elif self.path == "/reset.zip":
            self.connection.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: close with a reset
            self.wfile.write(self.archive[:1000])
            time.sleep(0.1)
            self.connection.close()
        else:
            self.wfile.write(self.archive)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """Return the URL of a real web server on this machine."""
    Web.archive, Web.requests = zip_of(tmp_path / "served.zip", pictures()).read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def archive_checksum() -> str:
    return f"md5:{md5(Web.archive).hexdigest()}"


def test_a_url_is_recorded_without_its_secrets_and_fetched_once(project: Path, site: str) -> None:
    url = site.replace("http://", "http://user:pa%40ss@") + "/set.zip?token=secret"
    first = ingest_source(url, checksum=archive_checksum())
    assert (first.source, first.digest, first.changed) == (f"{site}/set.zip", archive_checksum(), True)
    assert "secret" not in Path("data.dvc").read_text() and "pa" not in first.source
    assert Web.requests == [("/set.zip?token=secret", "Basic " + b64encode(b"user:pa@ss").decode())]
    assert ingest_source(url, checksum=archive_checksum()) == replace(first, changed=False)
    assert len(Web.requests) == 1


def test_a_password_is_not_forwarded_on_a_redirect(project: Path, site: str) -> None:
    download.fetch(site.replace("http://", "http://user:word@") + "/moved.zip", archive_checksum())
    assert [bool(authorization) for _, authorization in Web.requests] == [True, False]


def test_special_characters_in_url_and_password_are_encoded_correctly(project: Path, site: str) -> None:
    url = site.replace("http://", "http://us[er:p@ss]w%2Ford@") + "/s\u00e9t 1.zip?token=se cret#part"
    assert ingest_source(url, checksum=archive_checksum()).source == f"{site}/s\u00e9t 1.zip"
    authorization = "Basic " + b64encode(b"us[er:p@ss]w/ord").decode()
    assert Web.requests == [("/s%C3%A9t%201.zip?token=se%20cret", authorization)]
    assert not re.search("secret|p@ss|ord", Path("data.dvc").read_text().replace("word", ""))


@pytest.mark.parametrize(
    "source",
    [
        "http://user:planted/1@HOST/set.zip",
        "http://user:planted#1@HOST/set.zip",
        "http://user:planted?1@HOST/set.zip",
        "http:/user:planted@HOST/set.zip",
        "//user:planted@HOST/set.zip",
        "user:planted@HOST:set.zip",
        "HOST/set.zip?token=planted",
        "ftp://user:planted@HOST/set.zip",
        "http://user:planted@HOST/missing.zip?token=planted",
        "http://user:planted@HOST:x/set.zip",
        "http://user:planted@/set.zip?token=planted",
    ],
)
def test_no_error_about_a_url_reveals_its_secrets(project: Path, site: str, source: str) -> None:
    source = source.replace("HOST", site.removeprefix("http://"))
    set_requirements(CHECKS)
    change = {"data": {"source": source, "checksum": WRONG}}
    Path("params.yaml").write_text(yaml.safe_dump(yaml.safe_load(Path("params.yaml").read_text()) | change))
    with pytest.raises(LanduseError, match="data.source") as refused:
        ingest_source(source, checksum=WRONG)
    assert "planted" not in str(refused.value)


def test_a_download_with_another_checksum_is_refused_and_not_kept(project: Path, site: str) -> None:
    with pytest.raises(LanduseError, match=f"set.zip has {archive_checksum()} instead of {WRONG}"):
        ingest_source(f"{site}/set.zip", checksum=WRONG)
    assert not Path("data").exists() and list(download.DOWNLOADS.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("missing.zip", "answers 404 Not Found: check data.source"),
        ("cut.zip", "broke off after 1,000 of"),
        ("stalled.zip", r"broke off \(timed out\)"),
        ("reset.zip", "broke off"),
    ],
)
def test_a_failed_transfer_is_explained_and_leaves_nothing(
    project: Path, site: str, page: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 1)
    with pytest.raises(LanduseError, match=message) as caught:
        ingest_source(f"{site}/{page}?token=secret", checksum=archive_checksum())
    assert f"{site}/{page}" in str(caught.value) and "secret" not in str(caught.value)
    assert list(download.DOWNLOADS.iterdir()) == [] and not Path("data").exists()


def test_an_error_of_the_server_may_pass_and_that_of_an_address_does_not(project: Path, site: str) -> None:
    for page, code in ERRORS.items():
        with pytest.raises(LanduseError, match=f"answers {code} ") as caught:
            ingest_source(site + page, checksum=WRONG)
        assert isinstance(caught.value, Unavailable) == (page != "/missing.zip"), code


def test_an_unreachable_host_is_named_with_the_remedy(project: Path) -> None:
    with pytest.raises(
        LanduseError, match=r"http://127.0.0.1:1/a.zip cannot be reached \(Connection refused\)"
    ) as caught:
        ingest_source("http://127.0.0.1:1/a.zip", checksum=WRONG)
    assert "data.source" in str(caught.value)


def test_a_cached_download_is_used_until_it_is_damaged_or_replaced(project: Path, site: str) -> None:
    cached = download.fetch(f"{site}/set.zip", archive_checksum())
    assert download.fetch(f"{site}/set.zip", archive_checksum()) == cached and len(Web.requests) == 1
    cached.write_bytes(b"damaged")
    (cached.parent / "md5-older").touch()
    assert download.fetch(f"{site}/set.zip", archive_checksum()).read_bytes() == Web.archive
    assert list(cached.parent.iterdir()) == [cached]
