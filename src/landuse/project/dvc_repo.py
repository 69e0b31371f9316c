"""data/ in DVC's hands: a new version of it and what validation found there; nobody else there while it is replaced."""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path

from dvc.exceptions import CacheLinkError, DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo, lock_repo
from dvc.rwlock import rwlock

from landuse.core.errors import NotReady, Unavailable, one_line
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, DVC_TMP, HOLDERS, VALIDATED
from landuse.core.process import are_lost

GUARD = f"{HOLDERS.name}.lock"
MODIFIED, NOT_IN_CACHE = "modified", "not in cache"  # as DVC says it


@contextmanager
def repository() -> Iterator[Repo]:
    """This project as DVC sees it, its errors in one line and nothing else said.

    Raises Unavailable where another DVC command is in the way, NotReady for whatever else DVC refuses.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo() as repo:
            yield repo
    except CacheLinkError:
        raise NotReady(
            "DVC cannot link files to its cache as cache.type says: is that on another disk? "
            "dvc config --local cache.type copy; data/ is as it was"
        ) from None
    except sqlite3.Error as error:  # of DVC's notes on files
        remedy = f"free some space, and let this user write to {DVC_TMP}/"
        raise NotReady(f"DVC: {one_line(error)}; {remedy}; data/ is as it was") from None
    except DvcException as error:
        kind = Unavailable if isinstance(error, LockError) else NotReady
        said = one_line(error, 240)
        remedy = f"; mend it with git checkout {DVC_LOCK}, after a merge with --ours or --theirs"
        raise kind(f"DVC: {said}; data/ is as it was{remedy if DVC_LOCK.name in said else ''}") from None


@contextmanager
def replacing_data() -> Iterator[Repo]:
    """Have data/ and the results of `validate` alone: no stage reads them, and no DVC command begins.

    It is DVC's own lock, as a stage that writes them would hold it; what this process asks of DVC passes.
    Raises Unavailable where another is at work.
    """
    with repository() as repo, lock_repo(repo):
        release_the_lost(repo)
        places = [os.path.join(repo.root_dir, path) for path in (DATA, *VALIDATED)]
        with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), [], places, has_hardlinks(repo)):
            yield repo


def has_remote() -> bool:
    """Whether there is a place that DVC copies data sets to."""
    with repository() as repo:
        return "remote" in repo.config["core"]


def has_hardlinks(repo: Repo) -> bool:
    """Whether DVC locks by hard links here, as for some network drives."""
    return repo.config["core"].get("hardlink_lock", False)


def release_the_lost(repo: Repo) -> None:
    """Remove DVC's list of which process reads and writes what, where nobody in it is at work any more.

    DVC passes over processes that are gone, but is stopped for ever by a list that was half written when the machine
    broke down, and by a program that was given the number of a process in it since.
    """
    holders, guard = Path(repo.tmp_dir, HOLDERS.name), os.path.join(repo.tmp_dir, GUARD)
    with make_lock(guard, tmp_dir=repo.tmp_dir, hardlink_lock=has_hardlinks(repo)):
        if are_lost(holders):
            holders.unlink()


def status_of_data(repo: Repo) -> str:
    """How data/, where it is there, compares with data.dvc: `MODIFIED`, `NOT_IN_CACHE`, or nothing: it is the same."""
    found = str(repo.status([str(DATA_DVC)]))
    return next((status for status in (MODIFIED, NOT_IN_CACHE) if status in found), "")


def is_as_recorded(repo: Repo) -> bool:
    """Whether data/ is what data.dvc says: no, where that is damaged or there is none."""
    try:
        return DATA_DVC.exists() and status_of_data(repo) != MODIFIED
    except DvcException:
        return False


def is_validated(repo: Repo) -> bool:
    """Whether DVC has nothing to do for the stage `validate`."""
    return not repo.status(["validate"])


def add_data(repo: Repo) -> None:
    """Put what is in data/ into DVC's cache and its version into data.dvc.

    Raises NotReady where the cache cannot be written; a full disk is an OSError.
    """
    try:
        with redirect_stderr(StringIO()):  # that it cannot link to its cache is said by what is committed next
            repo.add(str(DATA))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise NotReady(f"DVC cannot take {DATA}/ in: {error}; data/ is as it was") from None


def commit_validation(repo: Repo) -> None:
    """Record in dvc.lock that the results of `validate` are those of what it depends on now, so that it is not run."""
    repo.commit("validate", force=True)
