"""Read tar archives sequentially in bounded memory, without trusting header sizes, links or the end marker."""

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
from typing import IO, Protocol

from landuse.core.errors import Refused

Member = tuple[str, int, Callable[[], IO[bytes]]]  # path (a folder's ends with a slash), size in bytes, opener
TargetOf = Callable[[str], Path | None]  # the path to which a member is written; None if it is not an image

MAX_HEADER_BYTES = 2**20  # of all headers in front of one member, and of all global headers together
MAX_PENDING_BYTES = 2**26  # of the names of links that wait for the second pass
CHUNK = 2**20
TAR_BLOCK = 512
TAR_PADDING = 16 * CHUNK


class ByteStream(Protocol):
    """A seekable binary stream."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


DECOMPRESSORS: dict[bytes, Callable[[Path], ByteStream]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"]\0\0": lzma.open,
}


class HeaderLimit:
    """A decompressed archive that yields at most MAX_HEADER_BYTES while a header is being read."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.remaining: int | None = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.remaining is not None:
            if not 0 <= size <= self.remaining:
                raise NotImplementedError(f"it has headers of more than {MAX_HEADER_BYTES:,} bytes")
            self.remaining -= size
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


def tar_members(archive: Path, name: str, target_of: TargetOf) -> Iterator[Member]:
    """Yield the members of a tar archive, plain or compressed. The caller writes an image to the path from `target_of`.

    A hard link is yielded as a file: it is read from the image already written, or else in a second pass over the
    archive. Raises Refused at the first symbolic link or device, or for a link whose target is not in the archive.
    """
    written: set[int] = set()  # hashes of the paths of images: 64 MB for a million
    pending: dict[str, str] = {}  # links whose target is not a written image, with their targets
    pending_bytes = 0
    for opened, info, header_bytes in read_headers(archive, name):
        if not info.islnk():
            if info.isreg() and target_of(info.name):
                written.add(hash(normalize_path(info.name)))
            yield info.name + "/" * info.isdir(), max(info.size, header_bytes), partial(open_content, opened, info)
        elif target_of(info.name) is None:
            yield info.name, header_bytes, BytesIO
        elif hash(target := link_target(info, pending, name)) in written and (file := target_of(target)):
            written.add(hash(normalize_path(info.name)))
            yield member_from_file(info.name, file)
        else:
            pending[normalize_path(info.name)] = target
            pending_bytes += len(info.name) + len(target)
            if pending_bytes > MAX_PENDING_BYTES:
                raise Refused(f"{name} is refused: it holds too many hard links to files that are not images")
    yield from pending_members(archive, name, target_of, pending)


def open_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    """Open the content of a member. Raises ValueError if it has none."""
    content = archive.extractfile(info)
    if content is None:
        raise ValueError("one of its members has no content")
    return content


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading."""
    return path.open("rb")


def normalize_path(path: str) -> str:
    """Normalize a path in an archive: drop single dots and repeated slashes, as in `./a//b`."""
    return str(PurePosixPath(path))


def link_target(link: tarfile.TarInfo, pending: dict[str, str], name: str) -> str:
    """Return the path of the file in the archive that a hard link refers to, directly or through a pending link."""
    target = PurePosixPath(link.linkname)
    if target.is_absolute() or ".." in target.parts:
        raise Refused(f"{name} is refused: its member {link.name!r} is a link to {link.linkname!r}, outside of it")
    return pending.get(str(target), str(target))


def member_from_file(member: str, file: Path) -> Member:
    """Return a member with the content of a file on disk."""
    return member, file.stat().st_size, partial(open_file, file)


def pending_members(archive: Path, name: str, target_of: TargetOf, pending: dict[str, str]) -> Iterator[Member]:
    """Yield the pending links in a second pass over the archive. Raises Refused if a link's target is not a file."""
    waiting: dict[str, list[str]] = defaultdict(list)
    for link, target in pending.items():
        waiting[target].append(link)
    for opened, info, _ in read_headers(archive, name) if waiting else ():
        links = waiting.pop(normalize_path(info.name), []) if info.isreg() else []
        for number, link in enumerate(links):
            first = target_of(links[0]) if number else None
            yield member_from_file(link, first) if first else (link, info.size, partial(open_content, opened, info))
    for target, links in waiting.items():
        raise Refused(f"{name} is refused: its member {links[0]!r} is a link to {target!r}, which is not a file in it")


def read_headers(archive: Path, name: str) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo, int]]:
    """Yield every member with its open archive and the number of bytes since the previous member.

    Raises Refused at the first symbolic link or device or if this is not an archive, NotImplementedError for a header
    that is too long, and EOFError if the end is missing.
    """
    with closing(open_decompressed(archive)) as content:
        stream = HeaderLimit(content)
        with open_tar(stream, name) as opened:
            before = 0
            while info := next_header(opened, stream):
                if not (info.isreg() or info.isdir() or info.islnk()):
                    raise Refused(f"{name} is refused: its member {info.name!r} is a link or a device")
                yield opened, info, opened.offset - before
                before = opened.offset
            check_end(opened)


def open_decompressed(archive: Path) -> ByteStream:
    """Open a tar archive for reading, decompressed according to its first bytes."""
    with archive.open("rb") as file:
        start = file.read(TAR_BLOCK)
    openers = [opener for magic, opener in DECOMPRESSORS.items() if start.startswith(magic)]
    return openers[0](archive) if openers and start[257:262] != b"ustar" else archive.open("rb")


def next_header(opened: tarfile.TarFile, stream: HeaderLimit) -> tarfile.TarInfo | None:
    """Return the next member, or None at the end. Raises ValueError or NotImplementedError for an absurd size."""
    stream.remaining = MAX_HEADER_BYTES
    info = opened.next()
    stream.remaining = None
    opened.members.clear()  # type: ignore[attr-defined]  # or memory would grow with the number of members
    if info and info.size < 0:
        raise ValueError("one of its members has a negative size")
    if sum(map(len, opened.pax_headers.values())) + sum(map(len, opened.pax_headers)) > MAX_HEADER_BYTES:
        raise NotImplementedError(f"it has headers of more than {MAX_HEADER_BYTES:,} bytes")
    return info


def open_tar(stream: HeaderLimit, name: str) -> tarfile.TarFile:
    """Open a decompressed tar archive. Raises Refused if it is not one."""
    try:
        return tarfile.TarFile(fileobj=stream)  # type: ignore[arg-type]  # to read, it need not write or close
    except tarfile.ReadError:
        message = (
            f"{name} is no zip or tar(.gz, .bz2, .xz) archive, or its beginning is damaged: fetch or pack it again"
        )
        raise Refused(message) from None


def check_end(opened: tarfile.TarFile) -> None:
    """Read past the end marker, so that the checksum of the compression is verified.

    Raises EOFError if the marker is missing: tarfile treats a truncated or garbled archive as a shorter one.
    """
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(TAR_BLOCK) != bytes(TAR_BLOCK):
        raise EOFError("it breaks off before its end")
    for _ in range(TAR_PADDING // CHUNK):
        if not opened.fileobj.read(CHUNK):
            return
