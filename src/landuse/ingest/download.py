"""Download an archive: stream it to disk, verify its checksum before use, and keep it for the next time."""

import hashlib
import http.client
import os
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, unquote
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from landuse.core.addresses import public, split_address
from landuse.core.errors import LanduseError, Refused, Unavailable, one_line, printable
from landuse.core.paths import INCOMING
from landuse.core.proxies import refuse_unsupported_proxy
from landuse.ingest.tar import CHUNK
from landuse.ingest.unpack import error_text, one_line_errors

DOWNLOADS = INCOMING / "downloads"
TIMEOUT = 30  # seconds
TRANSIENT_STATUSES = frozenset({408, 425, 429})
ALTERNATIVE = "or fetch the archive by other means and set data.source to its path"


def fetch(url: str, checksum: str) -> Path:
    """Return the path of the archive at a URL, downloading it unless it is cached; only the last download is cached.

    Raises Unavailable if the host cannot be reached or the transfer breaks off, and Refused if the checksum differs.
    """
    cached = DOWNLOADS / checksum.replace(":", "-")
    if cached.is_file() and compute_checksum(cached, checksum) == checksum:
        return cached
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    part = cached.with_suffix(".part")
    try:
        download(url, part)
        verify_checksum(part, checksum, public(url))
        os.replace(part, cached)
    finally:
        part.unlink(missing_ok=True)
    for old in DOWNLOADS.iterdir():
        if old != cached:
            old.unlink()
    return cached


def verify_checksum(archive: Path, checksum: str, name: str) -> None:
    """Raise Refused if the archive does not have the expected checksum."""
    actual = compute_checksum(archive, checksum)
    if actual != checksum:
        raise Refused(
            f"{name} has {actual} instead of {checksum}: it is damaged, or data.checksum is that of another archive"
        )


def compute_checksum(file: Path, like: str = "sha256:") -> str:
    """Compute the checksum `<algorithm>:<hex>` of a file, with the algorithm of the checksum `like`."""
    algorithm = like.partition(":")[0]
    with file.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def build_request(url: str) -> Request:
    """Build the request; credentials in the URL become a header that is not forwarded on redirects."""
    login, host, path = split_address(url)
    target = quote(path.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")
    request = Request(f"{url.partition('://')[0]}://{host}{target}", headers={"User-Agent": "landuse"})
    if login:
        request.add_unredirected_header("Authorization", "Basic " + b64encode(unquote(login).encode()).decode())
    return request


def download(url: str, target: Path) -> None:
    """Stream the response to a file.

    Raises LanduseError naming the URL, the key data.source and the remedy, or Unavailable if it may be temporary.
    """
    name = public(url)
    refuse_unsupported_proxy(url)
    try:
        with urlopen(build_request(url), timeout=TIMEOUT) as response, one_line_errors(name), target.open("wb") as file:
            expected = int(response.headers.get("Content-Length") or 0)
            for chunk in read_chunks(response, expected, name):
                file.write(chunk)
            received = file.tell()
    except HTTPError as error:
        error.close()
        kind = Unavailable if error.code in TRANSIENT_STATUSES or error.code >= 500 else LanduseError
        reason = one_line(error.reason, 80)
        raise kind(f"{name} answers {error.code} {reason}: check data.source, {ALTERNATIVE}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error_text(getattr(error, "reason", error))
        raise Unavailable(
            f"{name} cannot be reached ({reason}): check data.source and the network, {ALTERNATIVE}"
        ) from None
    if received < expected:
        raise Unavailable(f"{name} broke off after {received:,} of {expected:,} bytes: ingest again, {ALTERNATIVE}")


def read_chunks(response: http.client.HTTPResponse, expected: int, name: str) -> Iterator[bytes]:
    """Yield the response in chunks, with a progress bar on standard error."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(name.rpartition("/")[2]), total=expected or None)
        while chunk := read_chunk(response, name):
            bar.advance(task, len(chunk))
            yield chunk


def read_chunk(response: http.client.HTTPResponse, name: str) -> bytes:
    """Read the next chunk, empty at the end. Raises Unavailable if the connection fails."""
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{name} broke off ({error_text(error)}): ingest again, {ALTERNATIVE}") from None
