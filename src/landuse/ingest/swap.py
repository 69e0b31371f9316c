"""New images take the place of data/ in one rename, and go back where DVC's files could not follow."""

import ctypes
import errno
import json
import os
from pathlib import Path

from landuse.files import write_whole
from landuse.ingest.download import DOWNLOADS
from landuse.paths import DATA, DATA_DVC, DVC_LOCK

INCOMING = DOWNLOADS.parent
PREVIOUS = INCOMING / "previous"
JOURNAL = INCOMING / "swap.json"
FOLLOWING = (DATA_DVC, DVC_LOCK)

AT_FDCWD = -100
RENAME_EXCHANGE = 2
NOT_HERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP})


def swap_in(candidate: Path) -> None:
    """Put the candidate in place of data/, whose images then lie at the candidate's path.

    The journal says how to undo it, until `settle` is called.
    """
    before = {str(path): path.read_text(encoding="utf-8") if path.exists() else None for path in FOLLOWING}
    journal = {"candidate": str(candidate), "inode": candidate.stat().st_ino, "before": before}
    write_whole(JOURNAL, json.dumps(journal))
    put(candidate)


def put(folder: Path) -> None:
    """Give data/ the content of the folder, and the folder that of data/ if there is one."""
    if DATA.exists():
        exchange(folder, DATA)
    else:
        os.rename(folder, DATA)


def settle() -> None:
    """Keep what was swapped in: data/, data.dvc and dvc.lock agree."""
    JOURNAL.unlink()


def undo_swap() -> None:
    """Take back a swap that was not settled: data/, data.dvc and dvc.lock are as before. Otherwise do nothing.

    A new folder is told from an old one by its inode, which no rename changes.
    """
    if not JOURNAL.exists():
        return
    journal = json.loads(JOURNAL.read_text(encoding="utf-8"))
    candidate = Path(journal["candidate"])
    if PREVIOUS.exists():
        os.rename(PREVIOUS, candidate if DATA.exists() else DATA)
    if DATA.exists() and DATA.stat().st_ino == journal["inode"]:
        take_back(candidate)
    for path, text in journal["before"].items():
        if text is None:
            Path(path).unlink(missing_ok=True)
        else:
            write_whole(Path(path), text)
    settle()


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
