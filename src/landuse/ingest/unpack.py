"""Images out of an archive or a folder: each to `<class>/<image>`, its bytes unchanged, and nothing anywhere else."""

import errno
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO
from unicodedata import normalize

from landuse.core.errors import NO_ROOM, LanduseError, Refused, one_line
from landuse.ingest.tar import CHUNK, Member, tar_members
from landuse.ml.images import IMAGE_SUFFIXES

# An archive may unpack to this many bytes and this many times its own size more: images hardly compress, bombs do.
UNPACKED_BYTES = 2**30
UNPACKED_TIMES = 20
MEMBERS = 1_000_000
CLASSES = 10_000  # each is a row in every table of validation
ZIP_MEMBER = b"PK\1\2"  # begins what the directory of a zip says of one
PACKED = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, OverflowError, RecursionError),
)


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn what a damaged archive, a full disk or a file that may not be read raises into a LanduseError."""
    try:
        yield
    except NotImplementedError as error:
        raise Refused(f"{name} cannot be unpacked: {flat(error)}; pack it again as a plain zip or tar.gz") from None
    except DAMAGE as error:
        raise Refused(f"{name} is damaged: {flat(error)}; fetch or pack it again") from None
    except OSError as error:
        kind = Refused if error.errno in (None, errno.ENAMETOOLONG) else LanduseError
        raise kind(f"{name} {plain_reason(error)}") from None


def flat(error: Exception) -> str:
    """The text of an error in one line, without the name of a file."""
    return one_line(getattr(error, "strerror", None) or error)


def plain_reason(error: OSError) -> str:
    """What went wrong on the disk, and what to do about it."""
    if error.errno is None:
        return f"is damaged: {flat(error)}; fetch or pack it again"
    if error.errno in NO_ROOM:
        return "does not fit on the disk: free some space and ingest again; data/ is as it was"
    if error.errno == errno.ENAMETOOLONG:
        return f"holds a file or class with too long a name: {shorten_name(error.filename)}; use a shorter one"
    return f"cannot be taken in: {error.strerror}: {os.fspath(error.filename or '')!r}"


def shorten_name(path: str | bytes) -> str:
    """The longest part of a path, its beginning."""
    return f"{max(Path(os.fsdecode(path)).parts, key=len)[:60]}…"


def unpack_archive(archive: Path, name: str, target: Path) -> int:
    """Write the images of a zip or tar archive to target/<class>/<image>; the number of other files, left out.

    Raises Refused where the archive is damaged, hostile, of another kind or without images; target may then be
    half filled.
    """
    limit = UNPACKED_BYTES + UNPACKED_TIMES * archive.stat().st_size
    with one_line_errors(name):
        return take(within_limits(archive_members(archive, name, target), limit, name), name, target)


def copy_folder(folder: Path, name: str, target: Path) -> int:
    """Copy the images of a folder to target/<class>/<image>; the number of other files, left out."""
    with one_line_errors(name):
        return take(folder_members(folder, name), name, target)


def take(members: Iterator[Member], name: str, target: Path) -> int:
    """Write the images among the members below target; the number of the others."""
    taken = ignored = 0
    inner = ""
    classes: set[str] = set()
    for member, _, open_member in members:
        if member.endswith("/"):
            continue
        place = place_of(member, name)
        if place is None:
            ignored += 1
            inner = inner or (member if member.lower().endswith(PACKED) else "")
            continue
        classes.add(place.parent.name)
        if len(classes) > CLASSES:
            raise Refused(f"{name} is refused: it holds more than {CLASSES:,} class folders; use <class>/<image>")
        with open_member() as stream:
            write(stream, target / place, name)
        taken += 1
    if not taken:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        remedy = f"unpack {inner!r}, which lies in it" if inner else "pack the folders of the classes"
        raise Refused(f"{name} holds no image <class>/<image> ({suffixes}): {remedy}")
    return ignored


def place_of(member: str, name: str) -> Path | None:
    """`<class>/<image>` of a member, the class being the folder it lies in; None where it is hidden or no image.

    Raises Refused where the path leaves the archive, has no class or cannot be a file name everywhere.
    """
    path = PurePosixPath(normalize("NFC", member))  # a Mac writes letters and their accents apart
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[/\\]", member):
        raise Refused(f"{name} is refused: its member {member!r} would be written outside of the data folder")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return None
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if len(path.parts) == 1:
        raise Refused(f"{name} is refused: image {member!r} lies in no class folder; use <class>/<image>")
    if not encodable(member):
        raise Refused(f"{name} is refused: the file name {member!r} is not valid UTF-8; rename the file")
    return Path(*path.parts[-2:])


def encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8: bytes that no decoder understood cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write(stream: IO[bytes], target: Path, name: str) -> None:
    """Write one image where none is yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            shutil.copyfileobj(stream, file, CHUNK)
    except FileExistsError:
        place = f"{target.parent.name}/{target.name}"
        raise Refused(f"{name} is refused: two of its images would become {place!r}; rename one") from None


def within_limits(members: Iterator[Member], limit: int, name: str) -> Iterator[Member]:
    """The members, as long as they stay below the limits on bytes and number."""
    unpacked = 0
    for number, member in enumerate(members, start=1):
        unpacked += member[1]
        if unpacked > limit:
            raise Refused(f"{name} is refused: it unpacks to more than {limit:,} bytes; is it an archive of images?")
        if number > MEMBERS:
            raise Refused(f"{name} is refused: it holds more than {MEMBERS:,} files; is it an archive of images?")
        yield member


def archive_members(archive: Path, name: str, target: Path) -> Iterator[Member]:
    """The members of an archive, whose kind is told by its first bytes, never by its name."""
    with archive.open("rb") as file:
        is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return zip_members(archive, name) if is_zip else tar_members(archive, name, partial(path_of, target, name))


def path_of(target: Path, name: str, member: str) -> Path | None:
    """Where a member is written to; None as `place_of` says."""
    place = place_of(member, name)
    return place and target / place


def zip_members(archive: Path, name: str) -> Iterator[Member]:
    """The members of a zip archive.

    Raises Refused at the first one that is a link, a device or encrypted, or where there are too many of them, before
    they take memory.
    """
    if count_of(ZIP_MEMBER, archive) > MEMBERS:
        raise Refused(f"{name} is refused: it holds more than {MEMBERS:,} files; is it an archive of images?")
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"{name} is refused: its member {info.filename!r} is a link or a device")
            if info.flag_bits & 0x1:
                raise Refused(f"{name} is refused: its member {info.filename!r} is encrypted; pack it without")
            yield zip_name(info), info.file_size, partial(opened.open, info)


def count_of(mark: bytes, file: Path) -> int:
    """How often some bytes stand in a file."""
    found, end = 0, b""
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            found += (end + chunk).count(mark)
            end = chunk[1 - len(mark) :]
    return found


def zip_name(info: zipfile.ZipInfo) -> str:
    """The member's path with forward slashes; macOS writes UTF-8 without the flag that says so."""
    text = info.filename
    if not info.flag_bits & 0x800:
        try:
            text = text.encode("cp437").decode()
        except UnicodeError:
            text = info.filename
    return text.replace("\\", "/")


def folder_members(folder: Path, name: str) -> Iterator[Member]:
    """The files below a folder, sorted; hidden folders are left out.

    Raises Refused at a link to a folder, which would be skipped silently, or a device, which might never end.
    """
    for root, folders, files in os.walk(folder, onerror=raise_it):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for path in (Path(root, each) for each in folders):
            if path.is_symlink():
                raise Refused(f"{name} is refused: {str(path)!r} is a link to a folder; put the folder there itself")
        for path in (Path(root, each) for each in sorted(files)):
            if not path.is_file():
                raise Refused(f"{name} is refused: {str(path)!r} is a device or a broken link; remove it")
            yield path.relative_to(folder).as_posix(), path.stat().st_size, partial(path.open, "rb")


def raise_it(error: OSError) -> None:
    """A folder that may not be read is an error, not an empty folder."""
    raise error
