"""The errors a user is meant to read."""

import errno

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # of an OSError: the disk is full


class LanduseError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it without a traceback."""

    exit_code = 1


class Refused(LanduseError):
    """Judged and not let through: images that do not pass, a model that is not good enough."""

    exit_code = 3


class Unavailable(LanduseError):
    """Out of reach at the moment; the same command may succeed later. The exit code is EX_TEMPFAIL of sysexits.h."""

    exit_code = 75
