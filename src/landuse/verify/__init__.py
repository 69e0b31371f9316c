"""Verify: a version is made again from what its tags name, and compared with what its run logged then."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient

from landuse import registry
from landuse.core.errors import LanduseError, Refused
from landuse.project import lineage
from landuse.registry.version_record import fetch_run_file
from landuse.verify.diff import Row, Then, ingredients, line, packages, results
from landuse.verify.rebuild import rerun, restored

PARAMS_FILE = "params.yaml"
LOGGED = (PARAMS_FILE, "versions.json", "splits.csv", "metrics.json", "predictions.csv")
NEEDED = ("git.commit", "git.dirty", "data.md5", "data.source", "weights")


def verify(name: str, number: str, tell: Callable[[object], None] = print) -> str:
    """Run the stages of a version again, in a place of their own, and tell what came out beside what had; the verdict.

    Raises Refused where split, metrics or predictions differ, and LanduseError where there is nothing to compare:
    its commit, data, weights or records are not to be had, or a stage fails.
    """
    title = f"{name} version {number}"
    with TemporaryDirectory() as folder, about(title):
        then = recall(name, number, Path(folder, "then"))
        refuse_without_commit(then.tags)
        with restored(then.tags, then.folder / PARAMS_FILE, Path(folder, "now")) as project:
            if not rerun(project, Path(folder, "mlflow.db")):
                raise LanduseError(f"a stage failed, as said above{hint(then)}")
            inputs, outcome = ingredients(then, project), results(then, project)
    for row in [line("", "then", "now", "same"), *inputs, *outcome]:
        tell(row)
    return verdict(title, inputs, outcome)


@contextmanager
def about(title: str) -> Iterator[None]:
    """Let what goes wrong name the version."""
    try:
        yield
    except LanduseError as error:
        raise type(error)(f"{title} cannot be verified: {error}") from None


def recall(name: str, number: str, folder: Path) -> Then:
    """What is recorded of a version, with its run's files in the folder.

    Raises LanduseError where the registry does not have it, or something is not recorded.
    """
    with registry.at_hand():
        version = registry.get_version(name, number)
        registry.location_of(version)  # refused where the registry was made to keep it elsewhere
        lost = [f"the tag {tag}" for tag in NEEDED if tag not in version.tags]
        lost += [path for path in LOGGED if fetch_run_file(version, path, folder) is None]
        if lost:
            raise LanduseError(
                f"{', '.join(lost)} of its run {version.run_id} is missing; a version trained anew has it"
            )
        return Then(version.tags, MlflowClient().get_run(version.run_id).data.metrics, folder)


def refuse_without_commit(tags: Mapping[str, str]) -> None:
    """Raise LanduseError where the code of a version cannot be had again."""
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


def hint(then: Then) -> str:
    """That packages are others than then, if so: the likeliest reason why a stage fails that did not."""
    changed = [f"{row.what} was {row.then} and is {row.now}" for row in packages(then) if not row.same]
    return f"; {', '.join(changed)}" if changed else ""


def verdict(title: str, inputs: list[Row], outcome: list[Row]) -> str:
    """The verdict, which stands on what came out alone. Raises Refused where it is not the same."""
    changed, different = (", ".join(row.what for row in rows if not row.same) for rows in (inputs, outcome))
    if different:
        why = f"; so did what went in: {changed}" if changed else ""
        raise Refused(f"{title} came out differently: {different}{why}")
    return f"{title} came out the same" + (f", though what went in did not: {changed}" if changed else "")
