"""Copies of the project: git worktrees, with DVC's local settings, weights and, if wanted, uncommitted changes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from configobj import ConfigObj
from dvc.config import Config

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, DVC_YAML, PARAMS, WEIGHTS
from landuse.core.process import kill_group, termination_signals
from landuse.project.lineage import CODE, git, path_in_repository

NO_HOOKS = ("-c", "core.hooksPath=/dev/null")  # git options that disable the user's hooks, such as those of DVC
DVC = (sys.executable, "-m", "dvc")
DEPENDENCIES = (*CODE, str(PARAMS), str(DATA_DVC), str(DVC_LOCK))


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[None]:
    """Remove a worktree at the end, also after SIGTERM and SIGHUP, which end the program by SystemExit meanwhile."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in termination_signals()}
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        git("worktree", "prune")
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def temporary_worktree(folder: Path, commit: str) -> Iterator[Path]:
    """Check out a commit into a new folder, without data; yield the project's folder in it. It is removed afterwards.

    Raises LanduseError if the commit cannot be checked out.
    """
    with removed_afterwards(folder):
        yield check_out(commit, folder)


@contextmanager
def copied_project(folder: Path) -> Iterator[Path]:
    """Yield a copy of the project as `copy_project` makes it; it is removed afterwards.

    A copy that a killed command left behind is replaced.
    """
    with removed_afterwards(folder):
        remove_copy(folder)
        yield copy_project(folder)


def check_out(commit: str, folder: Path) -> Path:
    """Add a working tree at a commit; return the project's folder in it."""
    if git(*NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(folder), commit) is None:
        raise LanduseError(f"git worktree add {folder} {commit} failed: is there room, and may it write to .git?")
    place = path_in_repository()
    if not (folder / place / DVC_YAML).exists():
        raise LanduseError(f"its commit {commit} has no {place / DVC_YAML}: the project was in another folder then")
    return folder / place


def copy_project(folder: Path) -> Path:
    """Copy the project to a new git worktree of its commit, with uncommitted changes and the same DVC cache.

    Of untracked files only the stages' dependencies are copied: the project folder may also hold any number of images.
    Raises LanduseError if the project is not a git repository with a commit, or its data is not in DVC's cache.
    """
    run_command("git", *NO_HOOKS, "worktree", "add", "--quiet", "--detach", "--force", str(folder), "HEAD")
    project = folder / path_in_repository()
    names = run_command("git", "diff", "--relative", "--name-only", "-z", "HEAD")
    names += run_command("git", "ls-files", "--others", "--exclude-standard", "-z", "--", *DEPENDENCIES)
    for name in filter(None, names.split("\0")):
        source, target = Path(name), project / name
        if target.is_symlink() or target.is_file():
            target.unlink()
        if source.is_dir() and not source.is_symlink():
            continue  # a nested repository, or a folder in place of a link, whose files are in the list
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise LanduseError(f"{name} lies behind a link that leaves the project: commit the change, or undo it")
        if os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    configure_worktree(project)
    run_command(*DVC, "checkout", "--quiet", str(DATA), folder=project)
    return project


def remove_copy(folder: Path) -> None:
    """Remove a copy of the project, including one that a killed command left behind."""
    shutil.rmtree(folder, ignore_errors=True)
    run_command("git", "worktree", "prune")


def run_command(*command: str, folder: Path | None = None) -> str:
    """Return the output of a git or DVC command. Raises LanduseError with its last line if it fails."""
    result = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode:
        name = "dvc" if command[: len(DVC)] == DVC else command[0]
        complaint = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LanduseError(f"{name} failed ({complaint}): a copy of the project needs a git commit and its data")
    return result.stdout


def configure_worktree(folder: Path) -> None:
    """Let a worktree use this project's DVC cache and remotes, and its weights that are not in git.

    Relative paths and config.local are resolved too. Autostage is on, so that DVC does not ask to `git add` files. The
    file is not written by DVC, which writes ASCII only, while a path may contain other characters.
    Raises LanduseError in a git submodule, in whose worktrees DVC does not work.
    """
    if git("rev-parse", "--show-superproject-working-tree"):
        raise LanduseError("the project is a submodule of git, and DVC takes no second working tree of one: clone it")
    current = Config(dvc_dir=str(Path(".dvc").absolute()))
    local = ConfigObj(interpolation=False, encoding="utf-8")
    local["core"] = current["core"] | {"autostage": True}
    local["cache"] = {"dir": str(Path(".dvc/cache").absolute())} | current["cache"]
    if link_types := current["cache"].get("type"):
        local["cache"]["type"] = [*link_types, "copy"]  # the worktree may be on another disk, where links do not work
    for name, remote in current["remote"].items():
        local[f'remote "{name}"'] = remote
    with (folder / ".dvc" / "config.local").open("wb") as file:
        local.write(file)
    for path in WEIGHTS.iterdir():
        if not (folder / path).exists():
            (folder / path).symlink_to(path.absolute())


def run_stages(project: Path, environment: Mapping[str, str], *arguments: str) -> bool:
    """Run `dvc repro` with further arguments in a copy of the project; return True if all stages succeed.

    Their output is shown. They use this Python's commands and the copy's code, and do not outlive this function.
    """
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(project.absolute() / "src"), "PYTHONUNBUFFERED": "1"}
    stages = subprocess.Popen(
        [*DVC, "repro", *arguments],
        cwd=project,
        env={**environment, **own},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return stages.wait() == 0
    finally:
        kill_group(stages.pid)  # also processes that outlive DVC
        stages.wait()
