"""Which data, which commit, which params: what makes a result traceable."""

import hashlib
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.files import BOTH_SIDES
from landuse.core.paths import DATA_DVC, PARAMS

PACKAGES = (
    *("landuse", "tensorflow-cpu", "tensorflow", "keras", "ai-edge-litert", "mlflow", "dvc", "great-expectations"),
    *("numpy", "pandas", "pillow", "scikit-learn", "scipy"),
)
CODE = ("dvc.yaml", "gx", "src")  # what a result depends on beside data, params, weights and packages
BROKEN = re.compile(".*(Permission denied|corrupt|bad signature).*")
DISTRUSTED = re.compile("dubious ownership in repository at '(.*)'")
DIRTY = "git.dirty"
COMMIT = re.compile("[0-9a-f]{40,64}")  # git takes other names for options, or for what a branch is today
EDITED = ", edited since"
LATER = frozenset({"evaluate", "register"})  # what a run of the training does not hang on
RESULTLESS = frozenset({"promote", "tune", "serve", "pipelines"})


def read_data_dvc() -> dict[str, Any]:
    """The content of `data.dvc`.

    Raises LanduseError where there is none yet, or it is no file of DVC, as after a merge with conflicts.
    """
    try:
        text = DATA_DVC.read_text(encoding="utf-8", errors="replace")
        content = yaml.safe_load(text)
        content["outs"][0]["md5"]
    except FileNotFoundError:
        raise LanduseError(f"{DATA_DVC} is not here: bring in a data set with landuse ingest") from None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        if BOTH_SIDES in text:
            sides = f"git checkout --ours {DATA_DVC}, or --theirs, and dvc pull {DATA_DVC}"
            raise LanduseError(f"{DATA_DVC} has both sides of a merge: {sides}") from None
        raise LanduseError(f"{DATA_DVC} is damaged: restore it with git checkout {DATA_DVC}") from None
    return content


def data_record() -> dict[str, Any]:
    """The `md5` of the data set as DVC versions it, and whatever ingestion recorded as `meta`.

    Where data/ was edited since and DVC took that for a new version, its `source` says so.
    """
    content = read_data_dvc()
    md5, meta = content["outs"][0]["md5"], dict(content.get("meta") or {})
    if meta.get("version", md5) != md5:
        meta["source"] = f"{meta.get('source')}{EDITED}"
    return {"md5": md5, **public_values(meta)}


def commit_of_data(md5: str) -> str | None:
    """The commit that brought this version into data.dvc, also where a merge left it out; None where there is none."""
    found = git("log", "--all", "--full-history", "--format=%h", "-S", md5, "--", str(DATA_DVC))
    return (found or "").split("\n")[-1] or None


def git(*arguments: str) -> str | None:
    """What git prints, or None outside a repository and without git.

    Raises LanduseError where git does not trust a repository of another user, as in a container, or cannot read it:
    results made there would know no commit.
    """
    command = ["git", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
    except OSError:
        return None
    except subprocess.CalledProcessError as error:
        if distrusted := DISTRUSTED.search(error.stderr):
            raise LanduseError(
                f"git does not trust {distrusted[1]}, which is another user's, so that no result could name its "
                f"commit: git config --global --add safe.directory {quote(distrusted[1])}"
            ) from None
        if broken := BROKEN.search(error.stderr):
            raise LanduseError(f"git: {broken[0]}; until it is mended no result could name its commit") from None
        return None
    return answer.stdout.strip()


def place_in_repository() -> Path:
    """The project's folder relative to that of its git repository, which may hold more."""
    return Path(git("rev-parse", "--show-prefix") or "")


def params_record(**used: Any) -> dict[str, Any]:
    """Every key of `params.yaml` that a result may depend on, as `section.key`, of addresses what is public.

    Of sections that are already `used`, what is used: the file may have been edited since it was read.
    """
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    sections = {name: keys for name, keys in content.items() if name not in RESULTLESS}
    for name, section in used.items():
        sections[name] |= {key: value for key, value in asdict(section).items() if sections[name].get(key) != value}
    return public_values({f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()})


def params_with(learned: dict[str, Any]) -> dict[str, Any]:
    """The content of `params.yaml`, but what was learned by as it was then: the file may have been edited since.

    Of addresses what is public.
    """
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for name, value in learned.items():
        section, _, key = name.partition(".")
        if section not in LATER:
            content[section][key] = value
    return public_values(content)


def tags(**used: Any) -> dict[str, str]:
    """Data, code and params of this very moment, as tags of a run; `git.dirty` is of CODE alone."""
    data = data_record()
    source = str(data.get("source", "unknown"))
    drawn = bool(data.get("drawn"))
    changes = git("status", "--porcelain", "--untracked-files=normal", "--", *CODE)
    params = json.dumps(params_record(**used), sort_keys=True)
    return {
        "data.md5": data["md5"],
        "data.source": source,
        "data.kind": kind_of(source, drawn),
        "git.commit": git("rev-parse", "HEAD") or "none",
        DIRTY: "unknown" if changes is None else str(bool(changes)).lower(),
        "params.sha256": hashlib.sha256(params.encode()).hexdigest(),
    }


def kind_of(source: str, drawn: bool) -> str:
    """Whether images are of the `sample` or `real`; `unknown` where others may have taken their place by hand."""
    if drawn:
        return "sample"
    return "unknown" if source.endswith(EDITED) else "real"


def processor() -> str:
    """Its name, as far as the system tells: what a training comes to differs in the last digits from one to another."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "unknown"
    return f"{name} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:
            continue
    return found
