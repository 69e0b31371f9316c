"""Tar archives from front to back, in bounded memory: sizes of headers, links and the end are not trusted."""

import bz2
import gzip
import lzma
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

from landuse.core.errors import Refused

Member = tuple[str, int, Callable[[], IO[bytes]]]  # a path, that of a folder ends with a slash; bytes; their opener

HEADER_BYTES = 2**20  # of all that stands before a member and speaks of it, and of what is said of all of them
OWED_BYTES = 2**26  # of the names of links that wait until the archive is read again
CHUNK = 2**20
TAR_BLOCK = 512
TAR_PADDING = 16 * CHUNK
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open, b"]\0\0": lzma.open}


class Stream:
    """The unpacked bytes of an archive, of which no more than HEADER_BYTES are given while a header is looked for."""

    def __init__(self, unpacked: IO[bytes]) -> None:
        self.unpacked = unpacked
        self.left: int | None = HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            if not 0 <= size <= self.left:
                raise NotImplementedError(f"it has headers of more than {HEADER_BYTES:,} bytes")
            self.left -= size
        return self.unpacked.read(size)

    def seek(self, position: int) -> int:
        return self.unpacked.seek(position)

    def tell(self) -> int:
        return self.unpacked.tell()


def tar_members(archive: Path, name: str, place_of: Callable[[str], Path | None]) -> Iterator[Member]:
    """The members of a tar archive, plain or compressed; `place_of` says where an image is written, None of others.

    A hard link is a file of what it leads to, which is read from where it was written, or else from the archive once
    more. Raises Refused at the first symbolic link or device, or link that leads to no file of the archive.
    """
    taken: set[int] = set()  # the paths of images, as numbers: of a million of them these are 64 MB
    owed: dict[str, str] = {}  # links, and what they lead to, which is not taken
    owed_bytes = 0
    for opened, info, read in headers(archive, name):
        if not info.islnk():
            if info.isreg() and place_of(info.name):
                taken.add(hash(plain(info.name)))
            yield info.name + "/" * info.isdir(), max(info.size, read), partial(opened.extractfile, info)
        elif place_of(info.name) is None:
            yield info.name, read, BytesIO
        elif hash(source := source_of(info, owed, name)) in taken:
            taken.add(hash(plain(info.name)))
            yield on_disk(info.name, place_of(source))
        else:
            owed[plain(info.name)] = source
            owed_bytes += len(info.name) + len(source)
            if owed_bytes > OWED_BYTES:
                raise Refused(f"{name} is refused: it holds too many hard links to files that are no images")
    yield from owed_members(archive, name, place_of, owed)


def plain(path: str) -> str:
    """A path in an archive without what does not matter in it, as the dot and slashes in `./a//b`."""
    return str(PurePosixPath(path))


def source_of(link: tarfile.TarInfo, owed: dict[str, str], name: str) -> str:
    """The file in the archive that a hard link leads to, over another link or not."""
    source = PurePosixPath(link.linkname)
    if source.is_absolute() or ".." in source.parts:
        raise Refused(f"{name} is refused: its member {link.name!r} is a link to {link.linkname!r}, outside of it")
    return owed.get(str(source), str(source))


def on_disk(member: str, file: Path) -> Member:
    """A member with the content of a file that was written before."""
    return member, file.stat().st_size, partial(file.open, "rb")


def owed_members(
    archive: Path, name: str, place_of: Callable[[str], Path | None], owed: dict[str, str]
) -> Iterator[Member]:
    """The links that are still to come, from a second reading. Raises Refused where one leads to no file."""
    waiting: dict[str, list[str]] = defaultdict(list)
    for link, source in owed.items():
        waiting[source].append(link)
    for opened, info, _ in headers(archive, name) if waiting else ():
        links = waiting.pop(plain(info.name), []) if info.isreg() else []
        for number, link in enumerate(links):
            yield on_disk(link, place_of(links[0])) if number else (link, info.size, partial(opened.extractfile, info))
    for source, links in waiting.items():
        raise Refused(f"{name} is refused: its member {links[0]!r} is a link to {source!r}, which is no file in it")


def headers(archive: Path, name: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, int]]:
    """Every member of an archive with the number of bytes since the one before, while the archive stands there.

    Raises Refused at the first symbolic link or device, or where there is no archive, NotImplementedError where a
    header is too long, EOFError where the end is missing.
    """
    with closing(unpacked(archive)) as content:
        stream = Stream(content)
        with open_tar(stream, name) as opened:
            before = 0
            while info := next_header(opened, stream):
                if not (info.isreg() or info.isdir() or info.islnk()):
                    raise Refused(f"{name} is refused: its member {info.name!r} is a link or a device")
                yield opened, info, opened.offset - before
                before = opened.offset
            check_end(opened)


def unpacked(archive: Path) -> IO[bytes]:
    """The bytes of a tar archive, whose compression is told by its first bytes."""
    with archive.open("rb") as file:
        start = file.read(TAR_BLOCK)
    kinds = [kind for mark, kind in COMPRESSED.items() if start.startswith(mark) and start[257:262] != b"ustar"]
    return kinds[0](archive) if kinds else archive.open("rb")


def next_header(opened: tarfile.TarFile, stream: Stream) -> tarfile.TarInfo | None:
    """The next member; None at the end. Raises ValueError or NotImplementedError for one of a senseless size."""
    stream.left = HEADER_BYTES
    info = opened.next()
    stream.left = None
    opened.members.clear()  # or memory would grow with the number of files
    if info and info.size < 0:
        raise ValueError("one of its members has less than no bytes")
    if sum(map(len, opened.pax_headers.values())) + sum(map(len, opened.pax_headers)) > HEADER_BYTES:
        raise NotImplementedError(f"it has headers of more than {HEADER_BYTES:,} bytes")
    return info


def open_tar(stream: Stream, name: str) -> tarfile.TarFile:
    """A tar archive, its compression taken away. Raises Refused where it is none."""
    try:
        return tarfile.TarFile(fileobj=stream)
    except tarfile.ReadError:
        message = (
            f"{name} is no zip or tar(.gz, .bz2, .xz) archive, or its beginning is damaged: fetch or pack it again"
        )
        raise Refused(message) from None


def check_end(opened: tarfile.TarFile) -> None:
    """Read past the end mark, so that the checksum of the compression is looked at.

    Raises EOFError where the mark is missing: tarfile takes a cut or garbled archive for a shorter one.
    """
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise EOFError("it breaks off before its end")
    for _ in range(TAR_PADDING // CHUNK):
        if not opened.fileobj.read(CHUNK):
            return
