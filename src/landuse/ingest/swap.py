"""Swap new images in for data/ with one rename, and roll back if DVC's files cannot be updated."""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from dvc.repo import Repo

from landuse.core.files import CONFLICT_MARKER, write_atomically
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, INCOMING, VALIDATE_OUTPUTS
from landuse.core.paths import SWAP as JOURNAL
from landuse.project.dvc_repo import matches_data_dvc

PREVIOUS = INCOMING / "previous"
BACKUP = INCOMING / "before"  # files that change with data/; restoring them takes no disk space
DVC_FILES = (DATA_DVC, DVC_LOCK)

AT_FDCWD = -100
RENAME_EXCHANGE = 2
NOTHING_KNOWN: Mapping[str, str] = MappingProxyType({})
UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def swap_in(candidate: Path, metadata: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Swap the candidate in for data/; the previous images are then at the candidate's path.

    Until `commit_swap` is called, the journal says how to undo the swap and, by the `metadata` to be recorded, how to
    finish it. The new folder is recognized by its inode, which a rename preserves, and later edits by its content;
    `digests` spares reading files of which the sha256 is known.
    """
    existing = [path for path in (*DVC_FILES, *VALIDATE_OUTPUTS) if path.exists()]
    BACKUP.mkdir()
    for path in filter(DVC_FILES.__contains__, existing):
        shutil.copyfile(path, BACKUP / path.name)
    new = {"inode": candidate.stat().st_ino, "content": folder_digest(candidate, digests)}
    plan = {"candidate": str(candidate), "there": list(map(str, existing)), "facts": metadata}
    write_atomically(JOURNAL, json.dumps(plan | new))
    move_in(candidate)


def folder_digest(folder: Path, digests: Mapping[str, str] = NOTHING_KNOWN) -> str:
    """Return the SHA-256 of the names and contents of all files in a folder, given some contents' SHA-256 by path."""
    digest = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        content = digests.get(name.as_posix()) or sha256(path.read_bytes()).hexdigest()
        digest.update(os.fsencode(name) + bytes.fromhex(content))
    return digest.hexdigest()


def move_in(folder: Path) -> None:
    """Move a folder to data/, exchanging the two if data/ exists."""
    if DATA.exists():
        exchange(folder, DATA)
    else:
        os.rename(folder, DATA)


def move_out(candidate: Path) -> None:
    """Undo `move_in`."""
    if candidate.exists():
        exchange(candidate, DATA)
    else:
        os.rename(DATA, candidate)


def commit_swap() -> None:
    """Remove the journal: data/ and its files agree, or were changed by somebody else, so nothing is to be undone."""
    JOURNAL.unlink()


def undo_swap() -> None:
    """Roll back an uncommitted swap: restore data/, DVC's files and the validation results. No-op without a journal.

    Safe to repeat after an interruption: once data/ is the old folder, its files are the old ones.
    """
    if not JOURNAL.exists():
        return
    journal = read_journal()
    for path in DVC_FILES:
        restore_file(path, journal)
    restore_images(journal)


def recover_swap(repo: Repo) -> dict[str, Any] | None:
    """Settle the swap of an ingest that was killed, however long ago, without undoing anybody's later work.

    If the new images are untouched and not yet in data.dvc, the swap is undone. If data.dvc has them, the swap is to be
    finished, and the metadata to record is returned. If data/ was edited since, it is left as it is. DVC's files are
    restored only if they are truncated, because a complete one may have been written by somebody else.
    """
    journal = read_journal()
    for path in filter(is_truncated, DVC_FILES):
        restore_file(path, journal)
    if is_swapped(journal) and folder_digest(DATA) == journal["content"]:
        if not matches_data_dvc(repo):
            restore_images(journal)
            return None
        if metadata := journal.get("facts"):  # missing in journals of older versions
            return dict(metadata)
    commit_swap()
    return None


def restore_images(journal: dict[str, Any]) -> None:
    """Restore data/ and the validation results as far as they were replaced, then remove the journal."""
    for path in VALIDATE_OUTPUTS:
        if os.path.lexists(BACKUP / path.name):
            remove(path)
            shutil.move(BACKUP / path.name, path)
        elif str(path) not in journal["there"]:
            remove(path)
    if is_swapped(journal):
        move_out(Path(journal["candidate"]))
    commit_swap()


def read_journal() -> dict[str, Any]:
    """Read the journal, after finishing an `exchange` that stopped between its renames."""
    journal: dict[str, Any] = json.loads(JOURNAL.read_text(encoding="utf-8"))
    if PREVIOUS.exists():
        os.rename(PREVIOUS, Path(journal["candidate"]) if DATA.exists() else DATA)
    return journal


def is_swapped(journal: dict[str, Any]) -> bool:
    """Return True if data/ is the new folder."""
    return DATA.exists() and bool(DATA.stat().st_ino == journal["inode"])


def restore_file(path: Path, journal: dict[str, Any]) -> None:
    """Restore a file to its state before the swap, if that has not been done yet."""
    if str(path) not in journal["there"]:
        path.unlink(missing_ok=True)
    elif (BACKUP / path.name).exists():
        os.replace(BACKUP / path.name, path)


def is_truncated(path: Path) -> bool:
    """Return True if a DVC file ends in the middle. A file with merge conflicts does not count."""
    if not path.exists():
        return False
    content = path.read_bytes()
    try:
        is_whole = isinstance(yaml.safe_load(content), dict) and content.endswith(b"\n")
    except (yaml.YAMLError, UnicodeDecodeError):
        is_whole = False
    return not is_whole and CONFLICT_MARKER.encode() not in content


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange two folders: atomically if Linux and the file system support it, else with three renames."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno() if rename else errno.ENOSYS
    if code not in UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(other))
    os.rename(other, PREVIOUS)
    os.rename(one, other)
    os.rename(PREVIOUS, one)
