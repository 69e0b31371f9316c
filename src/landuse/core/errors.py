"""The errors a user is meant to read."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from unicodedata import category

from landuse.core.addresses import HIDDEN, redacted

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # of an OSError: the disk is full
REMEDIES = {
    **dict.fromkeys(NO_ROOM, "free some space, then the same command goes on"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "let the user who runs this read and write it"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), "move away what stands there"),
    **dict.fromkeys((errno.EXDEV, errno.EBUSY), "keep the folders of the project on one disk, none a mount of its own"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ETIMEDOUT), "look after the disk it is on, then try again"),
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
}
COLLECTED = re.compile(r"\[Errno (\d+)\](?: [^']*'(?:[^']*' -> ')?([^']*)')?")  # by shutil, of a tree of files
LONG_WORD, SHORTENED_WORD = re.compile(r"\S{300,}"), 200
LONGEST_LINE = 2000


class LanduseError(Exception):
    """Says what is wrong, where, and what to do about it, in one line. The command line prints it without a traceback.

    The line is printable from the beginning, since Prefect, MLflow, pages and logs take it too.
    """

    exit_code = 1

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


class Refused(LanduseError):
    """Judged and not let through: images that do not pass, a model that is not good enough."""

    exit_code = 3


class Unavailable(LanduseError):
    """Out of reach at the moment; the same command may succeed later. The exit code is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


class NotReady(LanduseError):
    """The project itself stands in the way, whatever is brought in. The exit code is EX_CONFIG of sysexits.h."""

    exit_code = 78


def printable(text: object) -> str:
    """A text of whatever origin on one line: no secrets, control characters escaped, shortened in the middle."""
    line = escaped(redacted(str(text)))
    line = LONG_WORD.sub(lambda word: in_short(word[0], SHORTENED_WORD), line)
    return line if len(line) <= LONGEST_LINE else in_short(line, LONGEST_LINE)


def escaped(text: str) -> str:
    """A text in which whatever is not visible, or turns the direction of what is, is written as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def in_short(text: str, most: int) -> str:
    """Beginning and end of a text of so many letters."""
    return f"{text[: 2 * most // 3]}{HIDDEN}{text[-(most // 3) :]}"


def one_line(error: object, most: int | None = None) -> str:
    """What an error says, on one line of so many letters at most; its kind where it says nothing."""
    return printable(" ".join(str(error).split()))[:most] or type(error).__name__


@contextmanager
def in_one_line() -> Iterator[None]:
    """End the command with one line where it fails for a reason that people can mend, else with a traceback."""
    try:
        yield
    except LanduseError as error:
        print(f"landuse: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        complaint = os_complaint(error) if isinstance(error, OSError) else None
        if complaint:
            print(printable(f"landuse: {complaint}"), file=sys.stderr)
        else:
            print(told(error), file=sys.stderr, end="")
        sys.exit(LanduseError.exit_code)


def told(error: BaseException) -> str:
    """The traceback of an error without secrets and control characters."""
    return "\n".join(escaped(redacted(line)) for line in "".join(format_exception(error)).split("\n"))


def os_complaint(error: OSError) -> str | None:
    """Describe the first thing that the system refused, with the remedy; None where no remedy is known."""
    number, name, reason = error.errno, error.filename2 or error.filename, error.strerror
    if number is None and (found := COLLECTED.search(str(error))):
        number, name, reason = int(found[1]), found[2], os.strerror(int(found[1]))
    place = f"{name}: " if name else ""
    return f"{place}{reason}: {REMEDIES[number]}" if number in REMEDIES else None
