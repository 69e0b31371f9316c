"""Ingestion: new images are fetched, validated beside the old ones, swapped in, versioned and pushed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from httpx import HTTPError
from prefect import flow, task

from landuse.core.errors import NotReady, Refused, printable
from landuse.core.paths import DATA_DVC, INBOX
from landuse.params import load_params
from landuse.project.dvc_repo import has_remote
from landuse.project.lineage import data_record
from pipelines.services import attempts, inbox
from pipelines.steps.artifacts import show_refused_images
from pipelines.steps.commands import TEMPORARY, CommandFailed, TookTooLong, alone, patient, run, when_free
from pipelines.steps.notifications import tell_failure
from pipelines.steps.parameters import Text

NOT_ITS_FAULT = frozenset({TEMPORARY, NotReady.exit_code})


@flow(flow_run_name="ingest", on_failure=[tell_failure])
def ingestion(source: Text | None = None) -> bool:
    """Bring in `source`, else the newest arrival in inbox/, else `data.source`; whether data/ changed.

    Fails with the first failed expectation where the images are not let in; everything is then as before.
    """
    with alone():
        arrival, before = source or inbox.newest(), version()
        with counting_failures(arrival):
            patient(fetch)(arrival)
            patient(take_in)(arrival)
        patient(push)()
        return version() != before


def version() -> str | None:
    """The md5 in data.dvc, if there is one yet."""
    return data_record()["md5"] if DATA_DVC.exists() else None


@contextmanager
def counting_failures(arrival: str | None) -> Iterator[None]:
    """Take in an arrival of the inbox, and set it aside where that failed twice, for whatever reason.

    A kill counts; a run that is stopped on purpose does not, nor does one that fails for another reason than this
    arrival, as far as that can be told.
    """
    path = Path(arrival or "")
    if path.parent != INBOX:
        yield
        return
    attempts.begin(path)
    try:
        yield
    except Exception as error:
        if may_be_its_fault(error):
            attempts.fail(path, printable(error))
        else:
            attempts.take_back(path)
        if path.exists() and attempts.is_hopeless(path):
            inbox.give_up(path)
        raise
    except BaseException:
        attempts.take_back(path)
        raise
    attempts.forget(path)


def may_be_its_fault(error: Exception) -> bool:
    """Whether a run may have failed because of what it was given: neither the project, a server nor others at work."""
    if isinstance(error, TookTooLong):
        return True
    return not (isinstance(error, HTTPError) or getattr(error, "exit_code", None) in NOT_ITS_FAULT)


@task(task_run_name="fetch")
def fetch(arrival: str | None) -> None:
    """Have the archive on this machine, its checksum verified, within a time limit."""
    with setting_aside(arrival):
        run("landuse", "fetch", *filter(None, [arrival]), seconds=60 * load_params().pipelines.fetch_minutes)


@task(task_run_name="ingest")
def take_in(arrival: str | None) -> None:
    """Build beside the old images, validate, swap in, version; what is refused goes to quarantine/ with its report."""
    with setting_aside(arrival):
        when_free(lambda: run("landuse", "ingest", *filter(None, [arrival])))
    if arrival:
        inbox.let_in(arrival)


@contextmanager
def setting_aside(arrival: str | None) -> Iterator[None]:
    """Move an arrival that is refused out of the way of the next one, and show why."""
    try:
        yield
    except CommandFailed as error:
        if error.exit_code == Refused.exit_code:
            show_refused_images(str(error))
            if arrival:
                inbox.set_aside(arrival, str(error))
        raise


@task(task_run_name="push")
def push() -> None:
    """Copy the data set to the DVC remote, if one is set; nothing to do where it is there already.

    DVC does not tell a remote that is away for now from one that is not there: either is tried again.
    """
    if has_remote():
        try:
            when_free(lambda: run("dvc", "push", str(DATA_DVC)))
        except CommandFailed as error:
            raise CommandFailed(f"dvc push: {error}", TEMPORARY) from None
