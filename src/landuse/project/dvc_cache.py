"""DVC's cache: files by the MD5 of their content, and folders as lists of these."""

import hashlib
import json
from contextlib import suppress
from functools import cache
from pathlib import Path

from dvc.config import Config

from landuse.core.errors import LanduseError

Listing = dict[str, str]  # the md5 of every file in a folder, by relative path


def cache_folder() -> Path:
    """Return the folder of DVC's cache."""
    return cache_folder_of(Path.cwd())


@cache
def cache_folder_of(project: Path) -> Path:
    """Return the folder of the DVC cache of a project; its settings are read once."""
    settings = read_config(project)["cache"]
    return Path(settings.get("dir") or project / ".dvc/cache")


def read_config(project: Path) -> Config:
    """Return DVC's settings of a project."""
    return Config(dvc_dir=str(project / ".dvc"))


def remote_url() -> str:
    """Return the address or path of the default DVC remote. Raises LanduseError if there is none."""
    config = read_config(Path.cwd())
    name = config["core"].get("remote")
    if name not in config["remote"]:
        raise LanduseError("DVC has no default remote: name one by dvc remote add --default, and dvc push")
    return str(config["remote"][name]["url"])


def cached_file(md5: str) -> Path:
    """Return where DVC's cache has, or would have, the file or folder with this MD5."""
    return cache_folder() / "files" / "md5" / md5[:2] / md5[2:]


def read_cached(md5: str) -> bytes | None:
    """Return the content of a file in DVC's cache; None if it is not there, or damaged."""
    with suppress(OSError):
        content = cached_file(md5).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5.removesuffix(".dir"):
            return content
    return None


def list_cached(md5: str) -> Listing | None:
    """Return the files of a folder in DVC's cache; None if that has no list of them, or a damaged one."""
    content = read_cached(md5)
    return None if content is None else {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
