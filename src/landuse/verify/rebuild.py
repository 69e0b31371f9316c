"""Rebuild: restore code, params, data and weights of a version in a separate working tree, and run its stages there."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, DATA_DVC, PARAMS, SPLITS, SQLITE, WEIGHTS
from landuse.params.errors import RENAMED
from landuse.project.earlier import FROM_SCRATCH
from landuse.project.worktree import DVC, configure_worktree, run_stages, temporary_worktree

LAST_STAGE = "evaluate"


@contextmanager
def restored_project(tags: Mapping[str, str], params: Path, folder: Path) -> Iterator[Path]:
    """Check out a version's commit into a new folder, with its params, data and weights; yield the project's folder.

    The working tree is removed afterwards. Raises LanduseError if data or weights are unavailable.
    """
    with temporary_worktree(folder, tags["git.commit"]) as project:
        restore_params(params, project / PARAMS)
        configure_worktree(project)
        require_weights(tags["weights"], project)
        restore_data(tags, project)
        yield project


def restore_params(recorded: Path, target: Path) -> None:
    """Replace the params of a commit by the recorded ones, in which keys may have newer names than its code knows.

    Workers are left out: they have the code of now, and may not see the folder.
    """
    known, content = yaml.safe_load(target.read_text("utf-8")), yaml.safe_load(recorded.read_text("utf-8"))
    for old, new in RENAMED.items():
        (section, _, old_key), new_key = old.partition("."), new.partition(".")[2]
        if old_key in known.get(section, {}) and new_key in content.get(section, {}):
            content[section][old_key] = content[section].pop(new_key)
    if "compute" in content:
        content["compute"]["address"] = None
    target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def require_weights(name: str, folder: Path) -> None:
    """Raise LanduseError if the weights of a version are missing."""
    if not (folder / WEIGHTS / name).is_file():
        raise LanduseError(f"its weights {WEIGHTS / name} are not there: put the file back (extract.weights)")


def restore_data(tags: Mapping[str, str], folder: Path) -> None:
    """Fetch the data set by its md5 from DVC's cache, else its remote. Raises LanduseError if neither has it."""
    md5, source = tags["data.md5"], tags["data.source"]
    record = {"outs": [{"md5": md5, "hash": "md5", "path": str(DATA)}], "meta": {"source": source}}
    (folder / DATA_DVC).write_text(yaml.safe_dump(record), encoding="utf-8")
    for verb in ("checkout", "pull"):
        done = subprocess.run([*DVC, verb, "--quiet", str(DATA_DVC)], cwd=folder, capture_output=True, text=True)
        if not done.returncode:
            return
    raise LanduseError(
        f"its data {md5} (from {source}) is neither in DVC's cache nor in its remote: dvc push it from where it is, "
        "or bring it in again with landuse ingest"
    )


def rerun(project: Path, store: Path, split: Path | None) -> bool:
    """Run every stage up to the evaluation without caches, with a separate MLflow store; return True if all succeed.

    A network of a study is given the `split` that another network made. The output of the stages is shown. They leave
    nothing in DVC's caches. No other MLflow setting is passed on, nor workers; temporary files go beside the store.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "LANDUSE_DASK"))}
    environment = inherited | {"TMPDIR": str(store.parent), "MLFLOW_TRACKING_URI": f"{SQLITE}{store}"}
    environment[FROM_SCRATCH] = "1"
    run = partial(run_stages, project, environment, "--force", "--no-run-cache", "--no-commit")
    if split is None:
        return run(LAST_STAGE)
    if not run("extract"):
        return False
    shutil.copyfile(split, project / SPLITS)
    return run("--single-item", "train", LAST_STAGE)
