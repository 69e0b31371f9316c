"""The project as it was, code, params, data and weights, in a place of its own, and its stages run there."""

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
from landuse.core.process import ending_signals, kill_group
from landuse.project import lineage
from landuse.project.worktree import NO_HOOKS, lend

DVC = (sys.executable, "-m", "dvc")
LAST_STAGE = "evaluate"


@contextmanager
def restored(tags: Mapping[str, str], params: Path, folder: Path) -> Iterator[Path]:
    """The project, in a new folder for its repository, as a version's tags and params file have it; then removed.

    Raises LanduseError where data or weights cannot be had.
    """

    def stop(number: int, _: object) -> None:  # a kill leaves nothing behind either
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in ending_signals()}
    try:
        project = check_out(tags["git.commit"], folder)
        shutil.copyfile(params, project / PARAMS)
        lend(project)
        find_weights(tags["weights"], project)
        restore_data(tags, project)
        yield project
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lineage.git("worktree", "prune")
        for number, handler in before.items():
            signal.signal(number, handler)


def check_out(commit: str, folder: Path) -> Path:
    """The project in a second working tree at a commit."""
    if lineage.git(*NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(folder), commit) is None:
        raise LanduseError(f"git worktree add {folder} {commit} failed: is there room, and may it write to .git?")
    place = lineage.place_in_repository()
    if not (folder / place / DVC_YAML).exists():
        raise LanduseError(f"its commit {commit} has no {place / DVC_YAML}: the project was in another folder then")
    return folder / place


def find_weights(name: str, folder: Path) -> None:
    """Raise LanduseError where the weights of a version are not there any more."""
    if not (folder / WEIGHTS / name).is_file():
        raise LanduseError(f"its weights {WEIGHTS / name} are not there: put the file back (extract.weights)")


def restore_data(tags: Mapping[str, str], folder: Path) -> None:
    """The data set by its md5, from DVC's cache or else its remote. Raises LanduseError where neither has it."""
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
    """Run every stage up to the evaluation, whatever was cached, with an MLflow store of its own; whether all did.

    What the stages print is shown. They leave nothing in DVC's caches, and end with this function.
    """
    command = [*DVC, "repro", "--force", "--no-run-cache", "--no-commit", LAST_STAGE]
    stages = subprocess.Popen(
        command, cwd=project, env=environment(project, store), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return stages.wait() == 0
    finally:
        kill_group(stages.pid)  # what outlives DVC too
        stages.wait()


def environment(project: Path, store: Path) -> dict[str, str]:
    """Nothing of our MLflow store; this Python's commands; the code of the working tree; scratch files beside it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(project / "src"), "TMPDIR": str(store.parent)}
    return kept | own | {"MLFLOW_TRACKING_URI": f"{SQLITE}{store}"}
