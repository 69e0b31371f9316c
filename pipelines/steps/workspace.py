"""Working folder of a training: the project itself or, with overridden params, a copy that leaves it unchanged."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from landuse import tracking
from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, PARAMS, SERVICES
from landuse.params import Params, load_params
from landuse.params.errors import RENAMED, suggestion
from landuse.project import lineage
from landuse.project.worktree import NO_HOOKS, configure_worktree
from pipelines.steps.commands import command_environment

COPY = SERVICES / "workspace"
DEPENDENCIES = (*lineage.CODE, str(PARAMS), str(DATA_DVC), str(DVC_LOCK))


@contextmanager
def workspace(overrides: dict[str, Any] | None) -> Iterator[Path]:
    """Yield the folder to run stages in. Results made in a copy stay in DVC's cache and the MLflow store.

    Raises LanduseError if a key or value is not allowed, or the project is not a git repository with a commit.
    """
    if not overrides:
        yield Path()
        return
    params = apply_overrides(overrides)
    with tracking.store():
        pass  # creates the experiment here, so that its artifacts are not stored in the copy
    remove_copy()
    try:
        project = make_copy()
        (project / PARAMS).write_text(params, encoding="utf-8")
        refuse_wrong_values(project / PARAMS)
        yield project
    finally:
        remove_copy()


def apply_overrides(overrides: dict[str, Any]) -> str:
    """Return params.yaml with the values of `section.key` replaced, and URLs reduced to their public part."""
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if name in RENAMED:
            raise LanduseError(f"{name}: renamed to {RENAMED[name]}")
        if key not in content.get(section, {}):
            sections = get_type_hints(Params)
            likely = suggestion(key, sections[section]) if section in sections else suggestion(section, Params)
            raise LanduseError(f"{name} = {value!r}: there is no such key in {PARAMS}{likely}")
        content[section][key] = value
    return yaml.safe_dump(public_values(content), sort_keys=False)


def refuse_wrong_values(params: Path) -> None:
    """Raise LanduseError if the copy's params.yaml is invalid, without naming that file."""
    try:
        load_params(params)
    except LanduseError as error:
        raise LanduseError(str(error).replace(f"{params}: ", "")) from None


def run_command(*command: str, folder: Path | None = None) -> str:
    """Return the output of a git or DVC command. Raises LanduseError with its last line if it fails."""
    result = subprocess.run(command, cwd=folder, env=command_environment(), capture_output=True, text=True)
    if result.returncode:
        complaint = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LanduseError(f"{command[0]} failed ({complaint}): other params need a git commit and its data")
    return result.stdout


def make_copy() -> Path:
    """Copy the project to a second git worktree at the same commit, with uncommitted changes and the same DVC cache.

    Of untracked files only the stages' dependencies are copied: the project folder may also hold any number of images.
    """
    run_command("git", *NO_HOOKS, "worktree", "add", "--quiet", "--detach", "--force", str(COPY), "HEAD")
    project = COPY / lineage.path_in_repository()
    names = run_command("git", "diff", "--relative", "--name-only", "-z", "HEAD")
    names += run_command("git", "ls-files", "--others", "--exclude-standard", "-z", "--", *DEPENDENCIES)
    for name in filter(None, names.split("\0")):
        source, target = Path(name), project / name
        if source.is_dir() and not source.is_symlink():
            continue  # a nested repository
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if os.path.lexists(source):
            shutil.copy2(source, target, follow_symlinks=False)
    configure_worktree(project)
    run_command("dvc", "checkout", "--quiet", str(DATA), folder=project)
    return project


def remove_copy() -> None:
    """Remove the copy, including one that a killed flow left behind."""
    shutil.rmtree(COPY, ignore_errors=True)
    run_command("git", "worktree", "prune")
