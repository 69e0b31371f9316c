"""New images take the place of data/ in one rename, and go back where DVC's files could not follow."""

import ctypes
import errno
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo

from landuse.core.files import BOTH_SIDES, write_whole
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, INCOMING, VALIDATED
from landuse.core.paths import SWAP as JOURNAL
from landuse.project.dvc_repo import is_as_recorded

PREVIOUS = INCOMING / "previous"
BEFORE = INCOMING / "before"  # what the files were that follow data/: to go back needs no room on the disk
FOLLOWING = (DATA_DVC, DVC_LOCK)

AT_FDCWD = -100
RENAME_EXCHANGE = 2
NOT_HERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def swap_in(candidate: Path, facts: dict[str, Any]) -> None:
    """Put the candidate in place of data/, whose images then lie at the candidate's path.

    The journal says how to undo it and, by the `facts` that are to be recorded of it, how to finish it, until `settle`
    is called. A new folder is told from an old one by its inode, which no rename changes, and from one that was worked
    in since by its content.
    """
    there = [path for path in (*FOLLOWING, *VALIDATED) if path.exists()]
    BEFORE.mkdir()
    for path in filter(FOLLOWING.__contains__, there):
        shutil.copyfile(path, BEFORE / path.name)
    new = {"inode": candidate.stat().st_ino, "content": content_of(candidate)}
    plan = {"candidate": str(candidate), "there": list(map(str, there)), "facts": facts}
    write_whole(JOURNAL, json.dumps(plan | new))
    put(candidate)


def content_of(folder: Path) -> str:
    """The sha256 of the names and contents of all files of a folder."""
    digest = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(os.fsencode(path.relative_to(folder)) + sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def put(folder: Path) -> None:
    """Give data/ the content of the folder, and the folder that of data/ if there is one."""
    if DATA.exists():
        exchange(folder, DATA)
    else:
        os.rename(folder, DATA)


def settle() -> None:
    """There is nothing to go back to any more: data/ and its files agree, or are somebody else's affair."""
    JOURNAL.unlink()


def undo_swap() -> None:
    """Take back a swap that was not settled: data/, its files and what was found in it are as before.

    It can be cut short and begun again: where data/ is the old folder, its files are the old ones. Without a journal
    there is nothing to do.
    """
    if not JOURNAL.exists():
        return
    journal = read_journal()
    for path in FOLLOWING:
        restore(path, journal)
    take_images_back(journal)


def recover(repo: Repo) -> dict[str, Any] | None:
    """Take back the swap of an ingest that was killed, however long ago, without undoing anybody's work.

    That is where the new images lie there untouched and data.dvc does not speak of them. Where it does, the swap is to
    be finished by what the ingest would have recorded, which is returned; and where data/ was worked in since, whoever
    did so decides. A file of DVC that is whole stays: who wrote it last is not known.
    """
    journal = read_journal()
    for path in filter(is_cut_short, FOLLOWING):
        restore(path, journal)
    if not is_new(journal) or content_of(DATA) != journal["content"]:
        return settle()
    if is_as_recorded(repo):
        return journal.get("facts") or settle()  # that of an earlier version tells none
    return take_images_back(journal)


def take_images_back(journal: dict[str, Any]) -> None:
    """Give data/ and the results of `validate` their old content, as far as they have another; then it is over."""
    for path in VALIDATED:
        if os.path.lexists(BEFORE / path.name):
            remove(path)
            shutil.move(BEFORE / path.name, path)
        elif str(path) not in journal["there"]:
            remove(path)
    if is_new(journal):
        take_back(Path(journal["candidate"]))
    settle()


def read_journal() -> dict[str, Any]:
    """What is being swapped, after the last of three renames was made good."""
    journal = json.loads(JOURNAL.read_text(encoding="utf-8"))
    if PREVIOUS.exists():
        os.rename(PREVIOUS, Path(journal["candidate"]) if DATA.exists() else DATA)
    return journal


def is_new(journal: dict[str, Any]) -> bool:
    """Whether data/ is the folder that was put in its place."""
    return DATA.exists() and DATA.stat().st_ino == journal["inode"]


def restore(path: Path, journal: dict[str, Any]) -> None:
    """Make a file what it was before the swap, unless it was made so already."""
    if str(path) not in journal["there"]:
        path.unlink(missing_ok=True)
    elif (BEFORE / path.name).exists():
        os.replace(BEFORE / path.name, path)


def is_cut_short(path: Path) -> bool:
    """Whether a file of DVC ends in the middle; one that git left both sides of a merge in does not."""
    if not path.exists():
        return False
    content = path.read_bytes()
    try:
        whole = isinstance(yaml.safe_load(content), dict) and content.endswith(b"\n")
    except (yaml.YAMLError, UnicodeDecodeError):
        whole = False
    return not whole and BOTH_SIDES.encode() not in content


def remove(path: Path) -> None:
    """A file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def take_back(candidate: Path) -> None:
    """Undo `put`."""
    if candidate.exists():
        exchange(candidate, DATA)
    else:
        os.rename(DATA, candidate)


def exchange(one: Path, other: Path) -> None:
    """Two folders change places: in one step where Linux and the file system can, in three renames elsewhere."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno() if rename else errno.ENOSYS
    if code not in NOT_HERE:
        raise OSError(code, os.strerror(code), str(other))
    os.rename(other, PREVIOUS)
    os.rename(one, other)
    os.rename(PREVIOUS, one)
