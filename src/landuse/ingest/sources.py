"""The kinds of `data.source`: the built-in sample, UC Merced, URLs, archives and folders."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from landuse import sample
from landuse.core.addresses import ENCODING_HINT, is_ambiguous, public
from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import DATA
from landuse.ingest.download import compute_checksum, fetch, verify_checksum
from landuse.ingest.unpack import copy_folder, folder_members, is_encodable, one_line_errors, unpack_archive
from landuse.params import DataParams

# Yang and Newsam, UC Merced Land Use (2010): the official archive, as mirrored by torchgeo.
UCMERCED_URL = (
    "https://huggingface.co/datasets/torchgeo/ucmerced/resolve/"
    "7c5ef3454d9b1cccfa7ccde0c01fc8f00a45909a/UCMerced_LandUse.zip"
)
UCMERCED_CHECKSUM = "md5:5b7ec56793786b6dc8a908e8854ac0e4"


@dataclass(frozen=True)
class Source:
    """A source of images.

    name: recorded in data.dvc, without local folders and secrets
    digest: `<algorithm>:<hex>` of the content, available before unpacking; hex digits alone for the sample
    fill: writes the images to a folder and returns the number of files left out
    fetch: downloads the source if it is not local yet
    """

    name: str
    digest: str
    fill: Callable[[Path], int]
    fetch: Callable[[], object] = lambda: None


def find_source(data: DataParams) -> Source:
    """Return the source that the params name.

    Raises LanduseError if it does not exist, or its checksum is missing or does not match.
    """
    if data.source == "sample":
        refuse_checksum(data)
        return Source("sample", sample.FINGERPRINT, fill_with_sample)
    if data.source == "ucmerced":
        return web_source("ucmerced", UCMERCED_URL, data.checksum or UCMERCED_CHECKSUM)
    if "://" in data.source:
        return web_source(public(data.source), data.source, data.checksum)
    path = Path(os.path.expanduser(data.source))  # leaves `~name` as it is if there is no such user
    if path.is_dir():
        refuse_checksum(data)
        refuse_own_data(path)
        return folder_source(path)
    if path.is_file():
        return archive_source(path, data.checksum)
    raise LanduseError(
        f"data.source = {public(data.source)}: there is no such file or folder; sample and ucmerced are built in"
    )


def resolve_source(data: DataParams, arrival: str | None) -> Source:
    """Return the arrival as a source if there is one, else `data.source`. Raises LanduseError if it does not exist."""
    if arrival is None:
        return find_source(data)
    if not arrival:
        raise LanduseError("the arrival has no name: name an archive or a folder, or leave it out for data.source")
    if "://" in arrival:
        raise LanduseError(f"{public(arrival)}: set data.source to ingest from a URL, and data.checksum")
    if not is_encodable(arrival):
        raise Refused(f"{arrival!r} is not valid UTF-8: rename it")
    path = os.path.join(".", os.path.expanduser(arrival))  # so that `sample` means the folder, not the built-in source
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise LanduseError(f"{public(arrival)}: there is no such file or folder")
    return find_source(DataParams(source=path, checksum=None))


def fill_with_sample(folder: Path) -> int:
    """Draw the embedded sample; nothing is left out."""
    sample.draw_sample(folder)
    return 0


def refuse_checksum(data: DataParams) -> None:
    """Raise LanduseError if there is a checksum: it would not be verified for this kind of source."""
    if data.checksum:
        raise LanduseError(f"data.checksum is for archives, but data.source = {data.source} is not one: set it to null")


def refuse_own_data(folder: Path) -> None:
    """Raise Refused if the folder is data/ itself, contains it or lies inside it: data/ is about to be replaced."""
    data, source = DATA.resolve(), folder.resolve()
    if data.is_relative_to(source) or source.is_relative_to(data):
        raise Refused(f"{folder}: data/ is what would be replaced; copy the images elsewhere first")


def web_source(name: str, url: str, checksum: str | None) -> Source:
    """Return an archive at an http(s) URL; its checksum serves as the digest, so no download is needed to compare."""
    if url.partition("://")[0].lower() not in ("http", "https"):
        raise LanduseError(f"data.source = {name}: only http and https URLs can be fetched, or set it to a local path")
    if is_ambiguous(url):
        raise LanduseError(f"data.source = {name} can be read in several ways: check the URL; {ENCODING_HINT}")
    if checksum is None:
        raise LanduseError(f"data.source = {name}: a URL needs data.checksum, md5:… or sha256:… of the archive")

    def fill(folder: Path) -> int:
        return unpack_archive(fetch(url, checksum), name, folder)

    return Source(name, checksum, fill, partial(fetch, url, checksum))


def archive_source(archive: Path, checksum: str | None) -> Source:
    """Return a local zip or tar archive."""
    with one_line_errors(str(archive)):
        if checksum:
            verify_checksum(archive, checksum, str(archive))
        digest = checksum or compute_checksum(archive)
    return Source(archive.name, digest, partial(unpack_archive, archive, str(archive)))


def folder_source(folder: Path) -> Source:
    """Return a local folder `<class>/<image>`; its digest covers the sorted paths and the contents of its files."""
    total = hashlib.sha256()
    with one_line_errors(str(folder)):
        for member, _, _ in folder_members(folder, str(folder)):
            with (folder / member).open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{content} {member}\n".encode(errors="surrogateescape"))
    return Source(folder.resolve().name, f"sha256:{total.hexdigest()}", partial(copy_folder, folder, str(folder)))
