"""Where the images come from: the kinds of `data.source`, each with its name, its digest and a way to unpack it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from landuse import sample
from landuse.core.addresses import ENCODED, is_ambiguous, public
from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import DATA
from landuse.ingest.download import checksum_of, fetch, verify
from landuse.ingest.unpack import copy_folder, folder_members, one_line_errors, unpack_archive
from landuse.params import DataParams

# Yang and Newsam, UC Merced Land Use (2010): the official archive, as mirrored by torchgeo.
UCMERCED_URL = (
    "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/"
    "7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a/UCMerced_LandUse.zip"
)
UCMERCED_CHECKSUM = "md5:5b7ec56793786b6dc8a908e8854ac0e4"


@dataclass(frozen=True)
class Source:
    """A set of images that can be had.

    name: what is recorded of it, without folders of this machine and without secrets
    digest: `<algorithm>:<hex>` of its content, known before it is unpacked; of the sample, hex digits alone
    fill: writes its images to a folder and counts the files that it left out
    fetch: brings it to this machine, where it is not there already
    """

    name: str
    digest: str
    fill: Callable[[Path], int]
    fetch: Callable[[], object] = lambda: None


def find_source(data: DataParams) -> Source:
    """The source that the params name.

    Raises LanduseError where there is none, or its checksum is missing or another.
    """
    if data.source == "sample":
        refuse_checksum(data)
        return Source("sample", sample.FINGERPRINT, draw)
    if data.source == "ucmerced":
        return web_source("ucmerced", UCMERCED_URL, data.checksum or UCMERCED_CHECKSUM)
    if "://" in data.source:
        return web_source(public(data.source), data.source, data.checksum)
    path = Path(os.path.expanduser(data.source))  # which leaves a user that nobody knows as it is
    if path.is_dir():
        refuse_checksum(data)
        refuse_own_data(path)
        return folder_source(path)
    if path.is_file():
        return archive_source(path, data.checksum)
    raise LanduseError(
        f"data.source = {public(data.source)}: there is no such file or folder; sample and ucmerced are known by name"
    )


def draw(folder: Path) -> int:
    """Draw the embedded sample, which leaves nothing out."""
    sample.draw_sample(folder)
    return 0


def refuse_checksum(data: DataParams) -> None:
    """A checksum that nothing is compared with would be a false promise."""
    if data.checksum:
        raise LanduseError(f"data.checksum is for archives, but data.source = {data.source} is none: set it to null")


def refuse_own_data(folder: Path) -> None:
    """The folder that is replaced is no source of what replaces it, nor is one around or inside it."""
    own, folder_itself = DATA.resolve(), folder.resolve()
    if own.is_relative_to(folder_itself) or folder_itself.is_relative_to(own):
        raise Refused(f"{folder}: data/ is what would be replaced; copy the images elsewhere first")


def web_source(name: str, url: str, checksum: str | None) -> Source:
    """An archive behind an http(s) URL; its checksum is its digest, so it is not fetched to see that it is the same."""
    if url.partition("://")[0].lower() not in ("http", "https"):
        raise LanduseError(f"data.source = {name}: only http and https URLs can be fetched, or set it to a local path")
    if is_ambiguous(url):
        raise LanduseError(f"data.source = {name} can be read in several ways: check the URL; {ENCODED}")
    if checksum is None:
        raise LanduseError(f"data.source = {name}: a URL needs data.checksum, md5:… or sha256:… of the archive")

    def fill(folder: Path) -> int:
        return unpack_archive(fetch(url, checksum), name, folder)

    return Source(name, checksum, fill, partial(fetch, url, checksum))


def archive_source(archive: Path, checksum: str | None) -> Source:
    """A zip or tar archive on this machine."""
    with one_line_errors(str(archive)):
        if checksum:
            verify(archive, checksum, str(archive))
        digest = checksum or checksum_of(archive)
    return Source(archive.name, digest, partial(unpack_archive, archive, str(archive)))


def folder_source(folder: Path) -> Source:
    """A folder `<class>/<image>`; its digest is that of the sorted paths and contents of its files."""
    total = hashlib.sha256()
    with one_line_errors(str(folder)):
        for member, _, open_member in folder_members(folder, str(folder)):
            with open_member() as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{content} {member}\n".encode(errors="surrogateescape"))
    return Source(folder.resolve().name, f"sha256:{total.hexdigest()}", partial(copy_folder, folder, str(folder)))
