"""Ingestion flow: fetch new images, validate them beside the current ones, swap them in, version and push them."""

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
from pipelines.steps.commands import (
    TEMPORARY,
    CommandFailed,
    CommandTimeout,
    flow_lock,
    retry_while_busy,
    run,
    with_retries,
)
from pipelines.steps.notifications import notify_failure
from pipelines.steps.parameters import Text

UNRELATED_EXIT_CODES = frozenset({TEMPORARY, NotReady.exit_code})  # failures for which the input is not to blame


@flow(flow_run_name="ingest", on_failure=[notify_failure])
def ingestion(source: Text | None = None) -> bool:
    """Ingest `source`, else what arrived in inbox/, else `data.source`; return True if data/ changed.

    Of several arrivals the newest replaces the data set; with `data.arrivals: add`, all of them join it in their order.
    Fails with the first failed expectation if images are refused; these have changed nothing.
    """
    with flow_lock():
        before = data_version()
        refusal = take_in(find_arrivals(source))
        if data_version() != before or refusal is None:
            with_retries(push)()
        if refusal:
            raise refusal
        return data_version() != before


def find_arrivals(source: str | None) -> list[str | None]:
    """Return what to ingest, in this order; None stands for `data.source`."""
    if not source and are_added():
        return [*inbox.all_arrivals()] or [None]
    return [source or inbox.next_arrival()]


def are_added() -> bool:
    """Return True if arrivals join the data set, False if each replaces it."""
    return load_params().data.arrivals == "add"


def data_version() -> str | None:
    """Return the MD5 in data.dvc; None before the first ingestion."""
    return data_record()["md5"] if DATA_DVC.exists() else None


def take_in(arrivals: list[str | None]) -> CommandFailed | None:
    """Fetch and ingest one arrival after the other; return the first refusal, which does not hold up the others."""
    refusal = None
    for arrival in arrivals:
        try:
            with tracked_attempt(arrival):
                with_retries(fetch)(arrival)
                with_retries(ingest)(arrival)
        except CommandFailed as error:
            if error.exit_code != Refused.exit_code:
                raise
            refusal = refusal or error
    return refusal


@contextmanager
def tracked_attempt(arrival: str | None) -> Iterator[None]:
    """Count failed attempts to ingest an arrival of the inbox, and quarantine it after the last one.

    A killed run counts as failed; a run that is stopped on purpose, or fails for a reason that is known to be
    unrelated to the arrival, does not.
    """
    path = Path(arrival or "")
    if path.parent != INBOX:
        yield
        return
    attempts.begin(path)
    try:
        yield
    except Exception as error:
        if may_be_caused_by_input(error):
            attempts.fail(path, printable(error))
        else:
            attempts.cancel(path)
        if path.exists() and attempts.is_exhausted(path):
            inbox.quarantine_exhausted(path)
        raise
    except BaseException:
        attempts.cancel(path)
        raise
    attempts.clear(path)


def may_be_caused_by_input(error: Exception) -> bool:
    """Return False if the project, a server or another process is known to have caused the error."""
    if isinstance(error, CommandTimeout):
        return True
    return not (isinstance(error, HTTPError) or getattr(error, "exit_code", None) in UNRELATED_EXIT_CODES)


@task(task_run_name="fetch")
def fetch(arrival: str | None) -> None:
    """Fetch the archive to this machine and verify its checksum, within a time limit."""
    with quarantined_if_refused(arrival):
        run("landuse", "fetch", *filter(None, [arrival]), timeout=60 * load_params().pipelines.fetch_minutes)


@task(task_run_name="ingest")
def ingest(arrival: str | None) -> None:
    """Build beside the current images, validate, swap in, version; refused data goes to quarantine/ with its report."""
    with quarantined_if_refused(arrival):
        adds = ["--add"] if arrival and are_added() else []
        retry_while_busy(lambda: run("landuse", "ingest", *adds, *filter(None, [arrival])))
    if arrival:
        (inbox.mark_added if adds else inbox.mark_ingested)(arrival)


@contextmanager
def quarantined_if_refused(arrival: str | None) -> Iterator[None]:
    """Move a refused arrival out of the inbox, and show why it was refused."""
    try:
        yield
    except CommandFailed as error:
        if error.exit_code == Refused.exit_code:
            show_refused_images(str(error))
            if arrival:
                inbox.quarantine(arrival, str(error))
        raise


@task(task_run_name="push")
def push() -> None:
    """Copy the data set to the DVC remote, if one is configured.

    DVC does not distinguish an unreachable remote from one that does not exist: both are retried.
    """
    if has_remote():
        try:
            retry_while_busy(lambda: run("dvc", "push", str(DATA_DVC)))
        except CommandFailed as error:
            raise CommandFailed(f"dvc push: {error}", TEMPORARY) from None
