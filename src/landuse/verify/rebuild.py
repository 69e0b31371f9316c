"""Rebuild: restore code, params, data and weights of a version in a separate working tree, and run its stages there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, DATA_DVC, DVC_YAML, PARAMS, SQLITE, WEIGHTS
from landuse.core.process import kill_group, termination_signals
from landuse.params.errors import RENAMED
from landuse.project import lineage
from landuse.project.worktree import NO_HOOKS, configure_worktree

DVC = (sys.executable, "-m", "dvc")
LAST_STAGE = "evaluate"


@contextmanager
def restored_project(tags: Mapping[str, str], params: Path, folder: Path) -> Iterator[Path]:
    """Check out a version's commit into a new folder, with its params, data and weights; yield the project's folder.

    The working tree is removed afterwards. Raises LanduseError if data or weights are unavailable.
    """

    def stop(number: int, _: object) -> None:  # so that SIGTERM and SIGHUP clean up too
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in termination_signals()}
    try:
        project = check_out(tags["git.commit"], folder)
        restore_params(params, project / PARAMS)
        configure_worktree(project)
        require_weights(tags["weights"], project)
        restore_data(tags, project)
        yield project
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lineage.git("worktree", "prune")
        for number, handler in before.items():
            signal.signal(number, handler)


def check_out(commit: str, folder: Path) -> Path:
    """Add a working tree at a commit; return the project's folder in it."""
    if lineage.git(*NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(folder), commit) is None:
        raise LanduseError(f"git worktree add {folder} {commit} failed: is there room, and may it write to .git?")
    place = lineage.path_in_repository()
    if not (folder / place / DVC_YAML).exists():
        raise LanduseError(f"its commit {commit} has no {place / DVC_YAML}: the project was in another folder then")
    return folder / place


def restore_params(recorded: Path, target: Path) -> None:
    """Replace the params of a commit by the recorded ones, in which keys may have newer names than its code knows."""
    known, content = yaml.safe_load(target.read_text("utf-8")), yaml.safe_load(recorded.read_text("utf-8"))
    for old, new in RENAMED.items():
        (section, _, old_key), new_key = old.partition("."), new.partition(".")[2]
        if old_key in known.get(section, {}) and new_key in content.get(section, {}):
            content[section][old_key] = content[section].pop(new_key)
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


def rerun(project: Path, store: Path) -> bool:
    """Run every stage up to the evaluation without caches, with a separate MLflow store; return True if all succeed.

    The output of the stages is shown. They leave nothing in DVC's caches and do not outlive this function.
    """
    command = [*DVC, "repro", "--force", "--no-run-cache", "--no-commit", LAST_STAGE]
    stages = subprocess.Popen(
        command, cwd=project, env=child_environment(project, store), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return stages.wait() == 0
    finally:
        kill_group(stages.pid)  # also processes that outlive DVC
        stages.wait()


def child_environment(project: Path, store: Path) -> dict[str, str]:
    """Build the environment of the stages: this Python's commands, the working tree's code, the separate store.

    No other MLflow setting is passed on; temporary files go beside the store.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = f"{Path(sys.executable).parent}:{inherited['PATH']}"
    changed = {"PATH": path, "PYTHONPATH": str(project / "src"), "TMPDIR": str(store.parent)}
    return inherited | changed | {"MLFLOW_TRACKING_URI": f"{SQLITE}{store}"}
