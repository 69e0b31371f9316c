"""Projects that are built once for all processes of `pytest -n`, and copied by each that needs them."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from filelock import FileLock


def build_once(temporary: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder of this test run that the first process to ask for it builds. Read-only from then on."""
    folder = shared_folder(temporary, name)
    complete = folder.with_suffix(".complete")
    with FileLock(folder.with_suffix(".lock")):
        if not complete.exists():
            rmtree(folder, ignore_errors=True)  # another process failed to build it
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder


def build_or_copy(temporary: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder with an MLflow store of this process's own, copied from the first process that built it.

    That one keeps what it built, since MLflow remembers where the files of a run are.
    """
    own, folder = temporary.mktemp(name) / "project", shared_folder(temporary, name)
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            return copy_with_store(folder, own)
        own.mkdir()
        build(own)
        copy_with_store(own, folder)
    return own


def shared_folder(temporary: pytest.TempPathFactory, name: str) -> Path:
    """Return the path of a folder that all processes of this test run share."""
    base = temporary.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    return folder


def copy_with_store(source: Path, folder: Path) -> Path:
    """Copy a folder to a new one, with the paths in its MLflow store rewritten if it has one."""
    copytree(source, folder, symlinks=True)
    if (folder / "mlflow.db").exists():
        replace_paths(folder / "mlflow.db", f"{source}/", f"{folder}/")
    return folder


def replace_paths(database: Path, old: str, new: str) -> None:
    """Replace the beginnings of paths in every column of an SQLite database."""
    with closing(sqlite3.connect(database)) as store, store:
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, *_ in store.execute(f"PRAGMA table_info({table})").fetchall():
                change = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)"
                store.execute(change, (old, new, old))
    with closing(sqlite3.connect(database)) as store:
        store.execute("VACUUM")  # without room in it, like the original
