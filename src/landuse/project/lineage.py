"""Lineage: the data, commit, params and packages behind a result."""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from landuse.core.addresses import public_values
from landuse.core.errors import LanduseError
from landuse.core.files import CONFLICT_MARKER
from landuse.core.paths import DATA_DVC, PARAMS
from landuse.params.errors import RENAMED

PACKAGES = (
    *("landuse", "tensorflow-cpu", "tensorflow", "keras", "ai-edge-litert", "mlflow", "dvc", "great-expectations"),
    *("numpy", "pandas", "pillow", "scikit-learn", "scipy"),
)
CODE = ("dvc.yaml", "gx", "src")  # what a result depends on besides data, params, weights and packages
GIT_DAMAGE = re.compile(".*(Permission denied|corrupt|bad signature).*")
UNTRUSTED_REPOSITORY = re.compile("dubious ownership in repository at '(.*)'")
DIRTY = "git.dirty"
COMMIT = re.compile("[0-9a-f]{40,64}")  # git would take other text for an option, or for a branch, which moves
SPLIT_TAG = "study.split"  # the network of a study that made the split, if it was another than the run's
EDITED = ", edited since"
POST_TRAINING = frozenset({"evaluate", "register"})  # params sections that training does not depend on
UNRECORDED = frozenset(
    {"promote", "tune", "serve", "compute", "pipelines", "study"}
)  # params sections that no result depends on


def read_data_dvc() -> dict[str, Any]:
    """Return the content of `data.dvc`.

    Raises LanduseError if it is missing, or is not a valid DVC file, as after a merge with conflicts.
    """
    try:
        text = DATA_DVC.read_text(encoding="utf-8", errors="replace")
        content: dict[str, Any] = yaml.safe_load(text)
        content["outs"][0]["md5"]
    except FileNotFoundError:
        raise LanduseError(f"{DATA_DVC} is not here: bring in a data set with landuse ingest") from None
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        if CONFLICT_MARKER in text:
            sides = f"git checkout --ours {DATA_DVC}, or --theirs, and dvc pull {DATA_DVC}"
            raise LanduseError(f"{DATA_DVC} has both sides of a merge: {sides}") from None
        raise LanduseError(f"{DATA_DVC} is damaged: restore it with git checkout {DATA_DVC}") from None
    return content


def data_record() -> dict[str, Any]:
    """Return the `md5` of the data set in DVC, and the `meta` that ingestion recorded, without secrets in addresses.

    If data/ was edited since and DVC versioned the edit, `source` says so.
    """
    content = read_data_dvc()
    md5, meta = content["outs"][0]["md5"], dict(content.get("meta") or {})
    if meta.get("version", md5) != md5:
        meta["source"] = f"{meta.get('source')}{EDITED}"
    return {"md5": md5, **public_values(meta)}


def data_version_at(revision: str) -> str:
    """Return the md5 of the data set at a git revision.

    Raises LanduseError if there is no such revision, or no valid data.dvc in it.
    """
    commit = git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") or ""
    if not COMMIT.fullmatch(commit):
        raise LanduseError(f"{revision} is no revision of this project in git: git log shows them")
    text = git("show", f"{commit}:./{DATA_DVC}")
    if text is None:
        raise LanduseError(f"{revision} has no {DATA_DVC}: git log -- {DATA_DVC} shows the revisions that have")
    try:
        return str(yaml.safe_load(text)["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError):
        raise LanduseError(f"{DATA_DVC} is damaged at {revision}: name another revision") from None


def find_data_commit(md5: str) -> str | None:
    """Return the commit that introduced this version in data.dvc, even if a merge dropped it; None if there is none."""
    commits = git("log", "--all", "--full-history", "--format=%h", "-S", md5, "--", str(DATA_DVC))
    return (commits or "").split("\n")[-1] or None


def git(*arguments: str) -> str | None:
    """Run git and return its output, or None outside a repository or if git is not installed.

    Raises LanduseError if git does not trust a repository owned by another user, as in a container, or cannot read it:
    results would lack their commit.
    """
    command = ["git", *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
    except OSError:
        return None
    except subprocess.CalledProcessError as error:
        if untrusted := UNTRUSTED_REPOSITORY.search(error.stderr):
            raise LanduseError(
                f"git does not trust {untrusted[1]}, which belongs to another user, so that no result could name its "
                f"commit: git config --global --add safe.directory {quote(untrusted[1])}"
            ) from None
        if damage := GIT_DAMAGE.search(error.stderr):
            raise LanduseError(f"git: {damage[0]}; until it is repaired, no result could name its commit") from None
        return None
    return result.stdout.strip()


def path_in_repository() -> Path:
    """Return the project's folder relative to the root of its git repository."""
    return Path(git("rev-parse", "--show-prefix") or "")


def params_record(**used: Any) -> dict[str, Any]:
    """Return the params that a result may depend on, keyed by `section.key`, without secrets in addresses.

    Sections passed in `used` override `params.yaml`, which may have been edited since it was read.
    """
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    sections = {name: keys for name, keys in content.items() if name not in UNRECORDED}
    for name, section in used.items():
        sections[name] |= {key: value for key, value in asdict(section).items() if sections[name].get(key) != value}
    values = {f"{name}.{key}": value for name, keys in sections.items() for key, value in keys.items()}
    return dict(public_values(values))


def params_with(trained: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `params.yaml` with the values that a model was trained with, keyed by `section.key`.

    `params.yaml` may have been edited since. Sections used after training are taken as they are. Addresses are
    returned without secrets.
    """
    content = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    for name, value in trained.items():
        section, _, key = RENAMED.get(name, name).partition(".")
        if section not in POST_TRAINING:
            content[section][key] = value
    return dict(public_values(content))


def tags(**used: Any) -> dict[str, str]:
    """Return the current data, code and params as tags of a run; `git.dirty` covers only CODE."""
    data = data_record()
    source = str(data.get("source", "unknown"))
    drawn = bool(data.get("drawn"))
    changes = git("status", "--porcelain", "--untracked-files=normal", "--", *CODE)
    params = json.dumps(params_record(**used), sort_keys=True)
    return {
        "data.md5": data["md5"],
        "data.source": source,
        "data.kind": data_kind(source, drawn),
        "git.commit": git("rev-parse", "HEAD") or "none",
        DIRTY: "unknown" if changes is None else str(bool(changes)).lower(),
        "params.sha256": hashlib.sha256(params.encode()).hexdigest(),
    }


def describe_code(facts: Mapping[str, str]) -> str:
    """Return the short commit of a result, and whether the code differed from it."""
    if facts["git.commit"] == "none":
        return "in no commit"
    return facts["git.commit"][:12] + (" with changes" if facts[DIRTY] == "true" else "")


def data_kind(source: str, drawn: bool) -> str:
    """Return `sample` for drawn images, `unknown` if they may have been replaced by hand, else `real`."""
    if drawn:
        return "sample"
    return "unknown" if source.endswith(EDITED) else "real"


def processor() -> str:
    """Return the name of the processor, if the system reports it: training differs in the last digits between them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or "unknown"
    return f"{name} ({platform.machine()})"


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that affect a result."""
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except ImportError:
            continue
    return installed


def origin(files: Iterable[Path], packages: Container[str]) -> dict[str, str]:
    """Return a digest of source files and the versions of some of PACKAGES: what a result depends on besides input."""
    code = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    used = {package: version for package, version in versions().items() if package in packages}
    return {"code": hashlib.sha256(code.encode()).hexdigest(), **used}
