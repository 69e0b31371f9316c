"""Verify a version: rebuild it from what its tags name, and compare the results with what its run logged."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from landuse import registry
from landuse.core.errors import LanduseError, Refused, prefix_errors
from landuse.core.paths import SPLITS
from landuse.project import lineage
from landuse.registry.version_record import RunRecord, fetch_run_record
from landuse.verify.diff import Row, compare_inputs, compare_packages, compare_results, table_line
from landuse.verify.rebuild import rerun, restored_project

REQUIRED_TAGS = ("git.commit", "git.dirty", "data.md5", "data.source", "weights")


def verify(name: str, number: str, notify: Callable[[object], None] = print) -> str:
    """Rerun the stages of a version in a separate working tree and return the verdict.

    `notify` gets each line of the table that compares recorded and current values.
    Raises Refused if split, metrics or predictions differ, and LanduseError if there is nothing to compare: commit,
    data, weights or records of the version are unavailable, or a stage fails.
    """
    title = f"{name} version {number}"
    with TemporaryDirectory() as folder, prefix_errors(f"{title} cannot be verified: "):
        recorded = read_recorded(name, number, Path(folder, "then"))
        refuse_without_commit(recorded.tags)
        with restored_project(recorded.tags, recorded.params_file, Path(folder, "now")) as project:
            split = recorded.folder / SPLITS.name if lineage.SPLIT_TAG in recorded.tags else None
            if not rerun(project, Path(folder, "mlflow.db"), split):
                raise LanduseError(f"a stage failed, as said above{package_hint(recorded)}")
            inputs, results = compare_inputs(recorded, project), compare_results(recorded, project)
    for row in [table_line("", "then", "now", "same"), *inputs, *results]:
        notify(row)
    return verdict(title, inputs, results)


def read_recorded(name: str, number: str, folder: Path) -> RunRecord:
    """Fetch the record of a version, with the files of its run in the folder.

    Raises LanduseError if the registry does not have the version, or its record is incomplete.
    """
    with registry.existing_store():
        return fetch_run_record(registry.get_version(name, number), REQUIRED_TAGS, folder)


def refuse_without_commit(tags: Mapping[str, str]) -> None:
    """Raise LanduseError if the code of a version cannot be checked out."""
    commit, dirty = tags["git.commit"], tags["git.dirty"]
    if commit == "none":
        raise LanduseError(
            "its code was in no commit (git.commit = none); commit, and dvc repro --force trains it anew"
        )
    if dirty != "false":
        raise LanduseError(
            f"it was trained with changes of the code that were never committed (git.dirty = {dirty}, "
            f"on top of {commit[:12]}); commit, and dvc repro --force trains it anew"
        )
    if not lineage.COMMIT.fullmatch(commit):
        raise LanduseError(f"its tag git.commit = {commit} names no commit")
    if lineage.git("cat-file", "-e", f"{commit}^{{commit}}") is None:
        raise LanduseError(f"its commit {commit} is not in this repository: git fetch it from where it is")


def package_hint(recorded: RunRecord) -> str:
    """List packages whose version changed, the likeliest reason for a stage that fails now; else an empty string."""
    changed = [f"{row.name} was {row.then} and is {row.now}" for row in compare_packages(recorded) if not row.same]
    return f"; {', '.join(changed)}" if changed else ""


def verdict(title: str, inputs: list[Row], results: list[Row]) -> str:
    """Return the verdict, which depends on the results alone. Raises Refused if they differ."""
    changed, different = (", ".join(row.name for row in rows if not row.same) for rows in (inputs, results))
    if different:
        why = f"; so did what went in: {changed}" if changed else ""
        raise Refused(f"{title} came out differently: {different}{why}")
    return f"{title} came out the same" + (f", though what went in did not: {changed}" if changed else "")
