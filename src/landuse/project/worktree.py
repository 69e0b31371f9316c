"""Set up a second git worktree of the project with what git does not contain: DVC's local settings and weights."""

from pathlib import Path

from configobj import ConfigObj
from dvc.config import Config

from landuse.core.errors import LanduseError
from landuse.core.paths import WEIGHTS
from landuse.project.lineage import git

NO_HOOKS = ("-c", "core.hooksPath=/dev/null")  # git options that disable the user's hooks, such as those of DVC


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
