"""Errors addressed to the user, and how they are printed."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from unicodedata import category

from landuse.core.addresses import REDACTED, redact

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # errno of an OSError: the disk or a quota is full
REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space, then the same command goes on"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "let the user who runs this read and write it"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "move away what stands there"),
    **dict.fromkeys((errno.EXDEV, errno.EBUSY), "keep the folders of the project on one disk, none a mount of its own"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "check the disk it is on, then try again"),
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
COLLECTED_ERROR = re.compile(
    r"\[Errno (\d+)\](?: [^']*'(?:[^']*' -> ')?([^']*)')?"
)  # how shutil reports an error in a tree of files
LONG_WORD, SHORTENED_WORD = re.compile(r"\S{300,}"), 200
MAX_LINE = 2000


class LanduseError(Exception):
    """An error that says in one line what is wrong, where, and what to do. The CLI prints it without a traceback.

    The message is made printable on creation, since Prefect, MLflow, pages and logs show it too.
    """

    exit_code = 1

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


class Refused(LanduseError):
    """Checked and rejected: images that fail validation, a model that is not good enough."""

    exit_code = 3


class Unavailable(LanduseError):
    """Temporarily out of reach: the same command may succeed later. The exit code is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


class NotReady(LanduseError):
    """The project itself must be fixed first, whatever the input is. The exit code is EX_CONFIG of sysexits.h."""

    exit_code = 78


def printable(text: object) -> str:
    """Return untrusted text as one line: secrets removed, control characters escaped, shortened in the middle."""
    line = escape(redact(str(text)))
    line = LONG_WORD.sub(lambda word: shorten(word[0], SHORTENED_WORD), line)
    return line if len(line) <= MAX_LINE else shorten(line, MAX_LINE)


def escape(text: str) -> str:
    """Escape invisible and text-direction characters as Python does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def shorten(text: str, length: int) -> str:
    """Cut the middle out of a text, leaving `length` characters of its beginning and end."""
    return f"{text[: 2 * length // 3]}{REDACTED}{text[-(length // 3) :]}"


def one_line(error: object, length: int | None = None) -> str:
    """Return an error's message on one line of at most `length` characters, or its type if it has none."""
    return printable(" ".join(str(error).split()))[:length] or type(error).__name__


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Put the prefix in front of the message of a LanduseError, whose class stays."""
    try:
        yield
    except LanduseError as error:
        raise type(error)(f"{prefix}{error}") from None


@contextmanager
def report_errors() -> Iterator[None]:
    """Exit with a one-line message for errors that users can fix, and with a traceback for all others."""
    try:
        yield
    except LanduseError as error:
        print(f"landuse: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        message = describe_os_error(error) if isinstance(error, OSError) else describe_missing_package(error)
        if message:
            print(printable(f"landuse: {message}"), file=sys.stderr)
        else:
            print(safe_traceback(error), file=sys.stderr, end="")
        sys.exit(LanduseError.exit_code)


def safe_traceback(error: BaseException) -> str:
    """Format the traceback of an error without secrets and control characters."""
    return "\n".join(escape(redact(line)) for line in "".join(format_exception(error)).split("\n"))


def describe_missing_package(error: Exception) -> str | None:
    """Describe that a package is not installed, as on a machine that only serves; None for any other error."""
    package = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    if package in ("", "landuse", "pipelines"):
        return None
    extra = "landuse[worker]" if package in ("distributed", "dask") else "landuse[work], the whole pipeline"
    return f"{package} is not installed, which this command needs: install {extra}"


def describe_os_error(error: OSError) -> str | None:
    """Describe what the operating system refused, with the remedy; None if no remedy is known."""
    number, name, reason = error.errno, error.filename2 or error.filename, error.strerror
    if number is None and (match := COLLECTED_ERROR.search(str(error))):
        number, name, reason = int(match[1]), match[2], os.strerror(int(match[1]))
    place = f"{name}: " if name else ""
    return f"{place}{reason}: {REMEDIES[number]}" if number in REMEDIES else None
