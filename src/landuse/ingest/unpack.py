"""Extract the images of an archive or folder to `<class>/<image>`, unchanged, and never write anywhere else."""

import errno
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO
from unicodedata import normalize

from landuse.core.errors import DISK_FULL, LanduseError, Refused, one_line
from landuse.ingest.tar import CHUNK, Member, open_file, tar_members
from landuse.ml.images import IMAGE_SUFFIXES

# An archive may unpack to UNPACKED_BYTES plus UNPACKED_RATIO times its own size: images hardly compress, zip bombs do.
UNPACKED_BYTES = 2**30
UNPACKED_RATIO = 20
MAX_MEMBERS = 1_000_000
MAX_CLASSES = 10_000  # each is a row in every validation table
ZIP_ENTRY = b"PK\1\2"  # magic bytes of an entry in the central directory of a zip
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
DAMAGE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, OverflowError, RecursionError),
)

Check = Callable[[Iterator[Member]], Iterator[Member]]  # yields the members, or raises Refused


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn the errors of a damaged archive, a full disk or an unreadable file into a one-line LanduseError."""
    try:
        yield
    except NotImplementedError as error:
        reason = error_text(error)
        raise Refused(f"{name} cannot be unpacked: {reason}; pack it again as a plain zip or tar.gz") from None
    except DAMAGE_ERRORS as error:
        raise Refused(f"{name} is damaged: {error_text(error)}; fetch or pack it again") from None
    except OSError as error:
        kind = Refused if error.errno in (None, errno.ENAMETOOLONG) else LanduseError
        raise kind(f"{name} {explain_os_error(error)}") from None


def error_text(error: Exception) -> str:
    """Return the text of an error in one line, without a file name."""
    return one_line(getattr(error, "strerror", None) or error)


def explain_os_error(error: OSError) -> str:
    """Say what went wrong on the disk and what to do about it."""
    if error.errno is None:
        return f"is damaged: {error_text(error)}; fetch or pack it again"
    if error.errno in DISK_FULL:
        return "does not fit on the disk: free some space and ingest again; data/ is unchanged"
    if error.errno == errno.ENAMETOOLONG:
        return f"holds a file or class with too long a name: {shorten_name(error.filename)}; use a shorter one"
    return f"cannot be ingested: {error.strerror}: {os.fspath(error.filename or '')!r}"


def shorten_name(path: str | bytes) -> str:
    """Return the beginning of the longest part of a path."""
    return f"{max(Path(os.fsdecode(path)).parts, key=len)[:60]}…"


def unpack_archive(archive: Path, name: str, target: Path, check: Check | None = None) -> int:
    """Extract the images of a zip or tar archive to target/<class>/<image>; return the number of other files.

    Raises Refused if the archive is damaged, malicious, of another kind or without images, or a further check of its
    members raises it; target may then be partially filled.
    """
    limit = UNPACKED_BYTES + UNPACKED_RATIO * archive.stat().st_size
    with one_line_errors(name):
        members = within_limits(archive_members(archive, name, target), limit, name)
        return write_images(check(members) if check else members, name, target)


def copy_folder(folder: Path, name: str, target: Path) -> int:
    """Copy the images of a folder to target/<class>/<image>; return the number of other files."""
    with one_line_errors(name):
        return write_images(folder_members(folder, name), name, target)


def write_images(members: Iterator[Member], name: str, target: Path) -> int:
    """Write the images among the members below target; return the number of other files."""
    written = ignored = 0
    nested_archive = ""
    classes: set[str] = set()
    for member, _, open_member in members:
        if member.endswith("/"):
            continue
        path = image_path(member, name)
        if path is None:
            ignored += 1
            nested_archive = nested_archive or (member if member.lower().endswith(ARCHIVE_SUFFIXES) else "")
            continue
        classes.add(path.parent.name)
        if len(classes) > MAX_CLASSES:
            raise Refused(f"{name} is refused: it holds more than {MAX_CLASSES:,} class folders; use <class>/<image>")
        with open_member() as stream:
            write_image(stream, target / path, name)
        written += 1
    if not written:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        remedy = f"unpack {nested_archive!r}, which lies in it" if nested_archive else "pack the folders of the classes"
        raise Refused(f"{name} holds no image <class>/<image> ({suffixes}): {remedy}")
    return ignored


def image_path(member: str, name: str) -> Path | None:
    """Return `<class>/<image>` for a member, the class being its folder; None if it is hidden or not an image.

    Raises Refused if the path leaves the archive, has no class or is not a portable file name.
    """
    path = PurePosixPath(normalize("NFC", member))  # macOS writes letters and accents separately
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:[/\\]", member):
        raise Refused(f"{name} is refused: its member {member!r} would be written outside of the data folder")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return None
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if len(path.parts) == 1:
        raise Refused(f"{name} is refused: image {member!r} lies in no class folder; use <class>/<image>")
    if not is_encodable(member):
        raise Refused(f"{name} is refused: the file name {member!r} is not valid UTF-8; rename the file")
    return Path(*path.parts[-2:])


def is_encodable(text: str) -> bool:
    """Return True if the text can be encoded as UTF-8, which fails for undecodable bytes of a file name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_image(stream: IO[bytes], target: Path, name: str) -> None:
    """Write one image. Raises Refused if the file already exists."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            shutil.copyfileobj(stream, file, CHUNK)
    except FileExistsError:
        path = f"{target.parent.name}/{target.name}"
        raise Refused(f"{name} is refused: two of its images would become {path!r}; rename one") from None


def within_limits(members: Iterator[Member], limit: int, name: str) -> Iterator[Member]:
    """Yield the members. Raises Refused if they exceed `limit` bytes in total or MAX_MEMBERS."""
    total = 0
    for number, member in enumerate(members, start=1):
        total += member[1]
        if total > limit:
            raise Refused(f"{name} is refused: it unpacks to more than {limit:,} bytes; is it an archive of images?")
        if number > MAX_MEMBERS:
            raise Refused(f"{name} is refused: it holds more than {MAX_MEMBERS:,} files; is it an archive of images?")
        yield member


def archive_members(archive: Path, name: str, target: Path) -> Iterator[Member]:
    """Return the members of an archive; its kind is determined by its first bytes, never by its name."""
    with archive.open("rb") as file:
        is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return zip_members(archive, name) if is_zip else tar_members(archive, name, partial(target_path, target, name))


def target_path(target: Path, name: str, member: str) -> Path | None:
    """Return the path to which a member is written, or None as `image_path` does."""
    path = image_path(member, name)
    return path and target / path


def zip_members(archive: Path, name: str) -> Iterator[Member]:
    """Yield the members of a zip archive.

    Raises Refused at the first link, device or encrypted member, or if there are too many members, which is checked
    before they are loaded into memory.
    """
    if count_occurrences(ZIP_ENTRY, archive) > MAX_MEMBERS:
        raise Refused(f"{name} is refused: it holds more than {MAX_MEMBERS:,} files; is it an archive of images?")
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"{name} is refused: its member {info.filename!r} is a link or a device")
            if info.flag_bits & 0x1:
                raise Refused(f"{name} is refused: its member {info.filename!r} is encrypted; pack it without")
            yield zip_path(info), info.file_size, partial(open_zipped, opened, info)


def open_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open the content of a member. Raises NotImplementedError for bzip2 and LZMA, read without a limit of memory."""
    if info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raise NotImplementedError(f"its member {info.filename!r} is compressed with bzip2 or LZMA")
    return archive.open(info)


def count_occurrences(pattern: bytes, file: Path) -> int:
    """Count how often a byte pattern occurs in a file."""
    occurrences, tail = 0, b""
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            occurrences += (tail + chunk).count(pattern)
            tail = chunk[1 - len(pattern) :]
    return occurrences


def zip_path(info: zipfile.ZipInfo) -> str:
    """Return the path of a member with forward slashes, as UTF-8 if it decodes: macOS does not set the UTF-8 flag."""
    text = info.filename
    if not info.flag_bits & 0x800:
        try:
            text = text.encode("cp437").decode()
        except UnicodeError:
            text = info.filename
    return text.replace("\\", "/")


def folder_members(folder: Path, name: str) -> Iterator[Member]:
    """Yield the files below a folder, sorted, without hidden folders.

    Raises Refused at a link to a folder, which would be skipped silently, or a device, which might never end.
    """
    for root, folders, files in os.walk(folder, onerror=raise_error):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for path in (Path(root, each) for each in folders):
            if path.is_symlink():
                raise Refused(f"{name} is refused: {str(path)!r} is a link to a folder; put the folder there itself")
        for path in (Path(root, each) for each in sorted(files)):
            if not path.is_file():
                raise Refused(f"{name} is refused: {str(path)!r} is a device or a broken link; remove it")
            yield path.relative_to(folder).as_posix(), path.stat().st_size, partial(open_file, path)


def raise_error(error: OSError) -> None:
    """Raise the error: os.walk would treat an unreadable folder as empty."""
    raise error
