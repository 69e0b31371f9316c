"""The errors a user is meant to read."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


class LanduseError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it without a traceback."""

    exit_code = 1


class Refused(LanduseError):
    """Judged and not let through: images that do not pass, a model that is not good enough."""

    exit_code = 3


class Unavailable(LanduseError):
    """Out of reach at the moment; the same command may succeed later. The exit code is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


def without_login(text: str) -> str:
    """A text in which no URL names a user or password."""
    return re.sub(r"(?<=://)[^/\s@]*@", "", text)


def one_line(error: object, most: int | None = None) -> str:
    """What an error says, on one line of so many letters at most; its kind where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


@contextmanager
def in_one_line() -> Iterator[None]:
    """End the command with one line where it fails for a reason that people can mend."""
    try:
        yield
    except LanduseError as error:
        print(f"landuse: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if (complaint := with_remedy(error)) is None:
            raise
        print(f"landuse: {complaint}", file=sys.stderr)
        sys.exit(LanduseError.exit_code)


def with_remedy(error: OSError) -> str | None:
    """What the system refused, or first refused of many files, and what to do about it; None where nobody knows."""
    number, name, reason = error.errno, error.filename2 or error.filename, error.strerror
    if number is None and (found := COLLECTED.search(str(error))):
        number, name, reason = int(found[1]), found[2], os.strerror(int(found[1]))
    place = f"{name}: " if name else ""
    return f"{place}{reason}: {REMEDIES[number]}" if number in REMEDIES else None
