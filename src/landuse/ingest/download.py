"""An archive from the web: streamed to disk, its checksum verified before anybody looks inside, kept for next time."""

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

from landuse.core.addresses import parts, public
from landuse.core.errors import LanduseError, Refused, Unavailable, one_line, printable
from landuse.core.paths import INCOMING
from landuse.core.proxies import refuse_unspoken_proxy
from landuse.ingest.unpack import CHUNK, flat, one_line_errors

DOWNLOADS = INCOMING / "downloads"
TIMEOUT = 30
BUSY = frozenset({408, 425, 429})
INSTEAD = "or fetch the archive by other means and set data.source to its path"


def fetch(url: str, checksum: str) -> Path:
    """The archive behind the URL, downloaded unless it is still here; it replaces the download kept before.

    Raises Unavailable where the host cannot be reached or the transfer breaks off, Refused where it is another archive.
    """
    kept = DOWNLOADS / checksum.replace(":", "-")
    if kept.is_file() and checksum_of(kept, checksum) == checksum:
        return kept
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(".part")
    try:
        download(url, part)
        verify(part, checksum, public(url))
        os.replace(part, kept)
    finally:
        part.unlink(missing_ok=True)
    for old in DOWNLOADS.iterdir():
        if old != kept:
            old.unlink()
    return kept


def verify(archive: Path, checksum: str, name: str) -> None:
    """Raise Refused where the archive is not the promised one."""
    found = checksum_of(archive, checksum)
    if found != checksum:
        raise Refused(f"{name} has {found} instead of {checksum}: it is damaged, or data.checksum is another's")


def checksum_of(file: Path, like: str = "sha256:") -> str:
    """`<algorithm>:<hex>` of a file, by the algorithm of the other checksum."""
    algorithm = like.partition(":")[0]
    with file.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


def request_for(url: str) -> Request:
    """The request; user and password of the URL become a header that is not sent on to where a redirect leads."""
    login, host, path = parts(url)
    target = quote(path.partition("#")[0], safe="%/:=&?~+!$,;'@()*[]")
    request = Request(f"{url.partition('://')[0]}://{host}{target}", headers={"User-Agent": "landuse"})
    if login:
        request.add_unredirected_header("Authorization", "Basic " + b64encode(unquote(login).encode()).decode())
    return request


def download(url: str, target: Path) -> None:
    """Stream the answer to a file.

    Raises LanduseError naming the URL, the key data.source and the remedy; Unavailable where that may pass.
    """
    name = public(url)
    refuse_unspoken_proxy(url)
    try:
        with urlopen(request_for(url), timeout=TIMEOUT) as answer, one_line_errors(name), target.open("wb") as file:
            expected = int(answer.headers.get("Content-Length") or 0)
            for chunk in chunks(answer, expected, name):
                file.write(chunk)
            received = file.tell()
    except HTTPError as error:
        error.close()
        kind = Unavailable if error.code in BUSY or error.code >= 500 else LanduseError
        raise kind(f"{name} answers {error.code} {one_line(error.reason, 80)}: check data.source, {INSTEAD}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = flat(getattr(error, "reason", error))
        raise Unavailable(
            f"{name} cannot be reached ({reason}): check data.source and the network, {INSTEAD}"
        ) from None
    if received < expected:
        raise Unavailable(f"{name} broke off after {received:,} of {expected:,} bytes: ingest again, {INSTEAD}")


def chunks(answer: http.client.HTTPResponse, expected: int, name: str) -> Iterator[bytes]:
    """The answer piece by piece, shown as a bar on standard error."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(name.rpartition("/")[2]), total=expected or None)
        while chunk := read_chunk(answer, name):
            bar.advance(task, len(chunk))
            yield chunk


def read_chunk(answer: http.client.HTTPResponse, name: str) -> bytes:
    """The next piece, empty at the end."""
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{name} broke off ({flat(error)}): ingest again, {INSTEAD}") from None
