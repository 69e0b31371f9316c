"""Where a training works: in the project's folder, or, with other params, in a copy that leaves the folder alone."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from landuse import tracking
from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, DATA_DVC, DVC_LOCK, PARAMS, SERVICES
from landuse.params import Params, load_params
from landuse.params.errors import suggestion
from landuse.project import lineage
from landuse.project.worktree import NO_HOOKS, lend
from pipelines.steps.commands import command_environment

COPY = SERVICES / "workspace"
NEEDED = (*lineage.CODE, str(PARAMS), str(DATA_DVC), str(DVC_LOCK))


@contextmanager
def workspace(overrides: dict[str, Any] | None) -> Iterator[Path]:
    """The folder to run stages in. What they made in a copy stays in DVC's cache and the MLflow store.

    Raises LanduseError where a key or value is not allowed, or the project is no git repository with a commit.
    """
    if not overrides:
        yield Path()
        return
    params = overridden(overrides)
    with tracking.store():
        pass  # so that the experiment keeps its files here, not in the copy
    remove_copy()
    try:
        project = make_copy()
        (project / PARAMS).write_text(params, encoding="utf-8")
        refuse_wrong_values(project / PARAMS)
        yield project
    finally:
        remove_copy()


def overridden(overrides: dict[str, Any]) -> str:
    """params.yaml with some values, by `section.key`, replaced; of addresses what is public."""
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if key not in content.get(section, {}):
            known = Params.__dataclass_fields__
            likely = suggestion(key, known[section].type) if section in known else suggestion(section, Params)
            raise LanduseError(f"{name} = {value!r}: there is no such key in {PARAMS}{likely}")
        content[section][key] = value
    return yaml.safe_dump(public_values(content), sort_keys=False)


def refuse_wrong_values(params: Path) -> None:
    """Raise LanduseError where params.yaml of the copy is not valid, in the name of what was given."""
    try:
        load_params(params)
    except LanduseError as error:
        raise LanduseError(str(error).replace(f"{params}: ", "")) from None


def command(*words: str, folder: Path | None = None) -> str:
    """What git or DVC prints. Raises LanduseError with its last line where it fails."""
    done = subprocess.run(words, cwd=folder, env=command_environment(), capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LanduseError(f"{words[0]} failed ({complaint}): other params need a git commit and its data")
    return done.stdout


def make_copy() -> Path:
    """The project in a second working tree at the same commit, with what was changed since, and the same cache.

    Of what git does not know, only what stages depend on: beside the project there may lie any number of images.
    """
    command("git", *NO_HOOKS, "worktree", "add", "--quiet", "--detach", "--force", str(COPY), "HEAD")
    project = COPY / lineage.place_in_repository()
    changed = command("git", "diff", "--relative", "--name-only", "-z", "HEAD")
    changed += command("git", "ls-files", "--others", "--exclude-standard", "-z", "--", *NEEDED)
    for name in filter(None, changed.split("\0")):
        here, there = Path(name), project / name
        if here.is_dir() and not here.is_symlink():
            continue  # a repository of its own
        there.parent.mkdir(parents=True, exist_ok=True)
        there.unlink(missing_ok=True)
        if os.path.lexists(here):
            shutil.copy2(here, there, follow_symlinks=False)
    lend(project)
    command("dvc", "checkout", "--quiet", str(DATA), folder=project)
    return project


def remove_copy() -> None:
    """Remove the copy, also one that a killed flow left behind."""
    shutil.rmtree(COPY, ignore_errors=True)
    command("git", "worktree", "prune")
