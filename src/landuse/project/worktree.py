"""A second working tree of the project, in need of what git does not hold: where DVC has its files, and weights."""

from pathlib import Path

from configobj import ConfigObj
from dvc.config import Config

from landuse.core.errors import LanduseError
from landuse.core.paths import WEIGHTS
from landuse.project.lineage import git

NO_HOOKS = ("-c", "core.hooksPath=/dev/null")  # options of git: hooks of the user, as of `dvc install`, do not run


def lend(folder: Path) -> None:
    """Let a working tree use the DVC cache and remotes of this project, and those of its weights that are not in git.

    That goes for relative paths and for config.local too. With autostage DVC asks nobody to add files to git. The file
    is written here, since DVC itself writes ASCII only, and a path may have other letters. Raises LanduseError in a
    submodule of git, whose working trees DVC cannot work in.
    """
    if git("rev-parse", "--show-superproject-working-tree"):
        raise LanduseError("the project is a submodule of git, and DVC takes no second working tree of one: clone it")
    here = Config(dvc_dir=str(Path(".dvc").absolute()))
    there = ConfigObj(interpolation=False, encoding="utf-8")
    there["core"] = here["core"] | {"autostage": True}
    there["cache"] = {"dir": str(Path(".dvc/cache").absolute())} | here["cache"]
    if kinds := here["cache"].get("type"):
        there["cache"]["type"] = [*kinds, "copy"]  # the working tree may lie on another disk, where links end
    for name, remote in here["remote"].items():
        there[f'remote "{name}"'] = remote
    with (folder / ".dvc" / "config.local").open("wb") as file:
        there.write(file)
    for path in WEIGHTS.iterdir():
        if not (folder / path).exists():
            (folder / path).symlink_to(path.absolute())
