"""The one error a user is meant to read."""


class LanduseError(Exception):
    """What is wrong, where, and what to do about it, in one line. The command line prints it without a traceback."""
