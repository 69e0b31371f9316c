"""A second working tree of the project, in need of what git does not hold: where DVC has its files, and weights."""

from pathlib import Path

from dvc.config import Config

from landuse.paths import WEIGHTS


def lend(folder: Path) -> None:
    """Let a working tree use the DVC cache and remotes of this project, and those of its weights that are not in git.

    That goes for relative paths and for config.local too. With autostage DVC asks nobody to add files to git.
    """
    here = Config(dvc_dir=str(Path(".dvc").absolute()))
    cache = {"dir": str(Path(".dvc/cache").absolute())} | here["cache"]
    with Config(dvc_dir=str(folder / ".dvc")).edit("local") as there:
        there |= {"core": here["core"] | {"autostage": True}, "remote": here["remote"], "cache": cache}
    for path in WEIGHTS.iterdir():
        if not (folder / path).exists():
            (folder / path).symlink_to(path.absolute())
