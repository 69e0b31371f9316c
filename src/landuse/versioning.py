"""data/ in DVC's hands: a new version of it, and nobody else there while it is replaced."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.rwlock import rwlock

from landuse.errors import LanduseError, Unavailable
from landuse.paths import DATA


@contextmanager
def repository() -> Iterator[Repo]:
    """This project as DVC sees it, its errors in one line and nothing else said.

    Raises Unavailable where another DVC command is in the way, LanduseError for whatever else DVC refuses.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        kind = Unavailable if isinstance(error, LockError) else LanduseError
        raise kind(f"DVC: {' '.join(str(error).split())[:240]}; data/ is as it was") from None


@contextmanager
def replacing_data() -> Iterator[Repo]:
    """Have data/ alone: no stage reads it, and no DVC command begins. Raises Unavailable where one is at work.

    It is DVC's own lock, as a stage that writes data/ would hold it; what this process asks of DVC passes.
    """
    with repository() as repo, lock_repo(repo):
        place, hardlink = os.path.join(repo.root_dir, DATA), repo.config["core"].get("hardlink_lock", False)
        with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), [], [place], hardlink):
            yield repo


def add_data(repo: Repo) -> None:
    """Put what is in data/ into DVC's cache and its version into data.dvc.

    Raises LanduseError where the cache cannot be written; a full disk is an OSError.
    """
    try:
        repo.add(str(DATA))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise LanduseError(f"DVC cannot take {DATA}/ in: {error}; data/ is as it was") from None
