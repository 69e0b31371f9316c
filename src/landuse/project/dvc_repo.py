"""DVC operations on data/ and the outputs of stage `validate`: lock, compare, add, commit."""

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
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, DVC_RWLOCK, DVC_TMP, VALIDATE_OUTPUTS
from landuse.core.process import is_stale_rwlock

RWLOCK_GUARD = f"{DVC_RWLOCK.name}.lock"
MODIFIED, NOT_IN_CACHE = "modified", "not in cache"  # DVC's own words


@contextmanager
def repository() -> Iterator[Repo]:
    """Open this project's DVC repository, silencing DVC and turning its errors into one line.

    Raises Unavailable while another DVC command is running, and NotReady for any other DVC error.
    """
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo() as repo:
            yield repo
    except CacheLinkError:
        raise NotReady(
            "DVC cannot link files to its cache as cache.type says: is that on another disk? "
            "dvc config --local cache.type copy; data/ is unchanged"
        ) from None
    except sqlite3.Error as error:  # of DVC's database of file states
        remedy = f"free some space, and let this user write to {DVC_TMP}/"
        raise NotReady(f"DVC: {one_line(error)}; {remedy}; data/ is unchanged") from None
    except DvcException as error:
        kind = Unavailable if isinstance(error, LockError) else NotReady
        message = one_line(error, 240)
        remedy = f"; restore it with git checkout {DVC_LOCK}, after a merge with --ours or --theirs"
        raise kind(f"DVC: {message}; data/ is unchanged{remedy if DVC_LOCK.name in message else ''}") from None


@contextmanager
def lock_data() -> Iterator[Repo]:
    """Hold DVC's locks on data/ and the outputs of `validate`: no stage reads them and no DVC command starts.

    These are the locks of a stage that writes them; DVC calls from this process still work. Raises Unavailable if
    another process holds them.
    """
    with repository() as repo, lock_repo(repo):
        release_stale_locks(repo)
        outputs = [os.path.join(repo.root_dir, path) for path in (DATA, *VALIDATE_OUTPUTS)]
        with rwlock(repo.tmp_dir, repo.fs, " ".join(sys.argv), [], outputs, uses_hardlink_locks(repo)):
            yield repo


def has_remote() -> bool:
    """Return True if DVC has a default remote."""
    with repository() as repo:
        return "remote" in repo.config["core"]


def uses_hardlink_locks(repo: Repo) -> bool:
    """Return True if DVC locks with hard links here, as some network drives require."""
    return bool(repo.config["core"].get("hardlink_lock", False))


def release_stale_locks(repo: Repo) -> None:
    """Remove DVC's list of which process reads and writes what if none of them is running any more.

    DVC itself ignores dead processes, but is blocked for ever by a list that was truncated by a crash of the machine,
    or by a later program that was given the PID of a process in it.
    """
    path, guard = Path(repo.tmp_dir, DVC_RWLOCK.name), os.path.join(repo.tmp_dir, RWLOCK_GUARD)
    with make_lock(guard, tmp_dir=repo.tmp_dir, hardlink_lock=uses_hardlink_locks(repo)):
        if is_stale_rwlock(path):
            path.unlink()


def data_status(repo: Repo) -> str:
    """Compare data/, which must exist, with data.dvc; return MODIFIED, NOT_IN_CACHE, or "" if they agree."""
    status = str(repo.status([str(DATA_DVC)]))
    return next((word for word in (MODIFIED, NOT_IN_CACHE) if word in status), "")


def matches_data_dvc(repo: Repo) -> bool:
    """Return True if data/ is the version in data.dvc; False if data.dvc is damaged or missing."""
    try:
        return DATA_DVC.exists() and data_status(repo) != MODIFIED
    except DvcException:
        return False


def is_validated(repo: Repo) -> bool:
    """Return True if stage `validate` is up to date."""
    return not repo.status(["validate"])


def add_data(repo: Repo) -> None:
    """Add data/ to DVC's cache and write its version to data.dvc.

    Raises NotReady if the cache cannot be written; a full disk is an OSError.
    """
    try:
        with redirect_stderr(StringIO()):  # if DVC cannot link to its cache, the next commit reports it
            repo.add(str(DATA), relink=links_to_cache(repo))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise NotReady(f"DVC cannot add {DATA}/: {error}; data/ is unchanged") from None


def links_to_cache(repo: Repo) -> bool:
    """Return True if files are links into DVC's cache here. Otherwise it would copy a file with other links anew."""
    return repo.cache.local.cache_types[0] in ("hardlink", "symlink")


def commit_validation(repo: Repo) -> None:
    """Record the outputs of `validate` in dvc.lock as the results for its current inputs, so that it is not rerun."""
    repo.commit("validate", force=True)
