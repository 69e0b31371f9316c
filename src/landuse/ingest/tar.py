"""Read tar archives sequentially in bounded memory, without trusting header sizes, links or the end marker."""

import bz2
import gzip
import lzma
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from io import DEFAULT_BUFFER_SIZE, BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from landuse.core.errors import Refused

Member = tuple[str, int, Callable[[], IO[bytes]]]  # path (a folder's ends with a slash), size in bytes, opener
TargetOf = Callable[[str], Path | None]  # the path to which a member is written; None if it is not an image

MAX_HEADER_BYTES = 2**20  # of all headers in front of one member, and of all global headers together
MAX_PAX_KEYS = 200  # of the extended headers in force, which tarfile applies to every member; usual are up to 20
MAX_DIGITS = 300  # in a row in a header, more than a file name has: tarfile takes the square of it in time
LZMA_MEMORY = 2**27  # bytes for decompressing xz and lzma: xz -9 needs 65 MiB, a header may ask for 4 GiB
LZMA_MAGIC = (b"\xfd7zXZ", b"]\0\0")  # first bytes of an xz and of an lzma stream
MAX_PENDING_BYTES = 2**26  # of the names of links that wait for the second pass
CHUNK = 2**20
TAR_BLOCK = 512
ZEROS = bytes.maketrans(b"123456789", b"000000000")  # turns all digits into zeros
TAR_PADDING = 16 * CHUNK


class ByteStream(Protocol):
    """A seekable binary stream."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


class LzmaStream:
    """A decompressed xz or lzma file. Raises NotImplementedError for a stream or block that needs too much memory."""

    def __init__(self, archive: Path) -> None:
        self.file = archive.open("rb")
        self.rewind()

    def rewind(self) -> None:
        self.file.seek(0)
        self.chunks = filter(None, lzma_chunks(self.file))
        self.chunk, self.start = BytesIO(), 0  # the current piece of the content, and its position

    def advance(self) -> bool:
        """Go to the next chunk. Returns whether there is one."""
        content = next(self.chunks, b"")
        if content:
            self.start += len(self.chunk.getbuffer())
            self.chunk = BytesIO(content)
        return bool(content)

    def read(self, size: int = CHUNK) -> bytes:
        content = self.chunk.read(size)
        while len(content) < size and self.advance():
            content += self.chunk.read(size - len(content))
        return content

    def seek(self, position: int, _: int = 0) -> int:
        """Go to a position from the beginning; backwards, if it is not in the current chunk, by decompressing anew."""
        if position < self.start:
            self.rewind()
        while position > self.start + len(self.chunk.getbuffer()) and self.advance():
            pass
        return self.start + self.chunk.seek(min(position - self.start, len(self.chunk.getbuffer())))

    def tell(self) -> int:
        return self.start + self.chunk.tell()

    def close(self) -> None:
        self.file.close()


def lzma_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of all xz or lzma streams in a file, ignoring bytes of another kind behind them.

    Raises EOFError if a stream breaks off.
    """
    packed = file.read(DEFAULT_BUFFER_SIZE)
    while packed:
        decompressor = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
        try:
            yield decompress(decompressor, packed)
        except lzma.LZMAError:
            if packed.startswith(LZMA_MAGIC):
                raise
            return
        while not decompressor.eof:
            packed = file.read(DEFAULT_BUFFER_SIZE) if decompressor.needs_input else b""
            if decompressor.needs_input and not packed:
                raise EOFError("it breaks off before its end")
            yield decompress(decompressor, packed)
        packed = decompressor.unused_data or file.read(DEFAULT_BUFFER_SIZE)


def decompress(decompressor: lzma.LZMADecompressor, packed: bytes) -> bytes:
    """Decompress up to CHUNK bytes. Raises NotImplementedError if that takes more than LZMA_MEMORY."""
    try:
        return decompressor.decompress(packed, CHUNK)
    except lzma.LZMAError as error:
        if "Memory usage limit" not in str(error):
            raise
        raise NotImplementedError(f"it takes more than {LZMA_MEMORY >> 20} MiB of memory to decompress") from None


DECOMPRESSORS: dict[bytes, Callable[[Path], ByteStream]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    **dict.fromkeys(LZMA_MAGIC, LzmaStream),
}


class HeaderLimit:
    """A decompressed archive that yields at most MAX_HEADER_BYTES, and few digits, while a header is being read."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.remaining: int | None = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.remaining is None:
            return self.stream.read(size)
        if not 0 <= size <= self.remaining:
            raise NotImplementedError(f"it has headers of more than {MAX_HEADER_BYTES:,} bytes")
        self.remaining -= size
        header = self.stream.read(size)
        if b"0" * MAX_DIGITS in header.translate(ZEROS):
            raise NotImplementedError(f"it has a header with {MAX_DIGITS} digits in a row")
        return header

    def seek(self, position: int) -> int:
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


class PaxHeaders(dict[str, str]):
    """The extended (pax) headers in force. Raises NotImplementedError if they are too many or too long.

    tarfile copies them for every member, and its parser takes keys that overlap, each of which may be a megabyte.
    """

    length = 0  # of all keys and values

    def __setitem__(self, key: str, value: str) -> None:
        self.length += len(value) - len(self[key]) if key in self else len(key) + len(value)
        if self.length > MAX_HEADER_BYTES:
            raise NotImplementedError(f"it has headers of more than {MAX_HEADER_BYTES:,} bytes")
        super().__setitem__(key, value)
        if len(self) > MAX_PAX_KEYS:
            raise NotImplementedError(f"it has extended headers of more than {MAX_PAX_KEYS:,} kinds")

    def copy(self) -> "PaxHeaders":
        """Return a copy that has the same limits."""
        copied = PaxHeaders(self)
        copied.length = self.length
        return copied


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
    """Return the next member, or None at the end. Raises ValueError or NotImplementedError if it is absurd."""
    stream.remaining = MAX_HEADER_BYTES
    info = opened.next()
    stream.remaining = None
    opened.members.clear()  # type: ignore[attr-defined]  # or memory would grow with the number of members
    if info and info.size < 0:
        raise ValueError("one of its members has a negative size")
    return info


def open_tar(stream: HeaderLimit, name: str) -> tarfile.TarFile:
    """Open a decompressed tar archive. Raises Refused if it is not one."""
    try:
        return tarfile.TarFile(fileobj=stream, pax_headers=PaxHeaders())  # type: ignore[arg-type]  # it only reads
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
