"""Where MLflow's store is, with the experiment of this project, and in words what is wrong with it."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from textwrap import shorten
from urllib.parse import unquote, urlsplit

import mlflow
from mlflow import MlflowClient, MlflowException
from requests import RequestException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from landuse.core.addresses import ENCODED, is_ambiguous, public
from landuse.core.errors import LanduseError, Unavailable, one_line, os_complaint
from landuse.core.paths import DEFAULT_STORE, LOGIN, SQLITE, tracking_uri
from landuse.core.proxies import LOOPBACK, refuse_unspoken_proxy
from landuse.tracking.git_remote import keep_origin_public

EXPERIMENT = "landuse"
FILES = "mlruns"  # where MLflow keeps the files of a store that is a file
AGAIN = "dvc repro --single-item --force register"  # registers the model in artifacts/ whatever DVC remembers
REMEDIES = {  # by what MLflow or the database says
    "disk is full": "free some space, then the same command goes on",
    "disk I/O error": "free some space, allow larger files (ulimit -f), or look after the disk it is on",
    "not a database|is malformed": "the file is damaged: put your backup of it in its place",
    "readonly database|unable to open": "let the user who runs this read and write it",
    "is locked": "another process writes to it; try again",
    "file-?system tracking backend": "name a database such as sqlite:///mlflow.db, or a server, in MLFLOW_TRACKING_URI",
    r"\b401\b": f"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; those of make up are in {LOGIN}",
    r"\b403\b|AccessDenied|Forbidden": "let this user read and write there",
    "No module named": "install it with pip, or name another store in MLFLOW_TRACKING_URI",
    "RESOURCE_DOES_NOT_EXIST": "somebody deleted it meanwhile",
    "deleted experiment": "mlflow experiments restore; its id is in mlflow experiments search --view deleted_only",
    "": "check MLFLOW_TRACKING_URI and that it is up",
}
DATABASES = frozenset({"mysql", "mssql", "postgresql", "sqlite"})  # MLflow's
BESIDES = r"\s\[SQL: | with exception |\s\(Background on "  # what follows helps nobody
BEFORE = r"\(raised as a result of [^)]*\)\s*"  # nor does this
LASTING = "readonly|read-only|disk is full"
NO_ANSWER = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})


@contextmanager
def store() -> Iterator[str]:
    """MLflow's store with the experiment of this project; yields the URI.

    Raises LanduseError as `reach` does, and where the store would write into the folder that the project was in before.
    """
    with reach() as uri:
        experiment = mlflow.set_experiment(EXPERIMENT)
        if uri.startswith(SQLITE) and Path(uri.removeprefix(SQLITE)).resolve() == own_file().resolve():
            refuse_files_elsewhere(experiment.artifact_location)
        yield uri


def refuse_unfit_own_store() -> None:
    """Raise LanduseError as `store` does, for the file beside the project, whatever `MLFLOW_TRACKING_URI` names."""
    refuse_misread_path()
    if own_file().exists():
        with suppress(MlflowException, SQLAlchemyError):  # a damaged file: who works with it says so
            if experiment := MlflowClient(f"{SQLITE}{own_file()}").get_experiment_by_name(EXPERIMENT):
                refuse_files_elsewhere(experiment.artifact_location)


def refuse_files_elsewhere(location: str) -> None:
    """Raise LanduseError where the project was moved or copied: MLflow keeps files where it began to, for ever."""
    before = folder_of(location)
    if not before or Path(before, FILES).resolve() == (own_file().parent / FILES).resolve():
        return
    file = own_file().name
    if os.path.exists(os.path.join(before, file)):
        raise LanduseError(
            f"{file} is a copy of that in {before}, and its runs would be written there: move {file} and {FILES}/ "
            f"away from here; {AGAIN} then begins a registry of this folder"
        )
    link = f'ln -s "$PWD" {quote(before)}'
    remedy = f"move away what is left in {before}, then {link}" if os.path.lexists(before) else link
    raise LanduseError(f"{file} keeps its files in {before}, where the project was: {remedy}")


def folder_of(location: str) -> str:
    """The folder of the project that a location of files in an MLflow store lies in; empty where it is in none."""
    before, found, _ = location.removeprefix("file://").partition(f"/{FILES}/")
    return before if found else ""


def own_file() -> Path:
    """The file of the MLflow store beside the project, or beside that of which DVC runs a copy below `.dvc/`."""
    home = next((folder.parent for folder in Path.cwd().parents if folder.name == ".dvc"), Path.cwd())
    return home / DEFAULT_STORE.removeprefix(SQLITE)


@contextmanager
def reach() -> Iterator[str]:
    """MLflow's store as `MLFLOW_TRACKING_URI` names it, else a file beside the project; yields its public part.

    Raises LanduseError, on one line, for whatever MLflow refuses, and Unavailable where it does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_TRACKING_URI"] = named_store()
    approach(os.environ["MLFLOW_TRACKING_URI"])
    uri = public(os.environ["MLFLOW_TRACKING_URI"])
    if uri != os.environ["MLFLOW_TRACKING_URI"]:  # MLflow would print all of it
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    keep_origin_public()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # else a hundred lines before the one below
    try:
        yield uri
    except (MlflowException, SQLAlchemyError, ModuleNotFoundError, *transfer_errors()) as error:  # a driver may lack
        if isinstance(error.__cause__, OSError) and (complaint := os_complaint(error.__cause__)):
            raise LanduseError(complaint) from None
        kind = Unavailable if may_pass(error) else LanduseError
        raise kind(f"MLflow at {uri}: {with_remedy(one_line(error))}") from None


def approach(uri: str) -> None:
    """Raise LanduseError where a store is behind a proxy that nothing here can go through.

    One on this machine is sent no login from the user's .netrc, which is meant for others.
    """
    if uri.startswith("http"):
        refuse_unspoken_proxy(uri)
        if urlsplit(uri).hostname in LOOPBACK:
            os.environ["NETRC"] = os.devnull


def named_store() -> str:
    """What `MLFLOW_TRACKING_URI` names, else a file beside the project.

    A file means that of the project also for an experiment that DVC runs in a copy below `.dvc/` and then deletes.
    Raises LanduseError where that project has none yet: the copy would be where the files of its runs are kept; and
    where MLflow would take the path of the project for another one, or cannot read the address.
    """
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        refuse_unreadable(uri)
        return uri
    refuse_misread_path()
    home, name = own_file().parent, uri.removeprefix(SQLITE)
    if home == Path.cwd() or Path(name).is_absolute():
        return uri
    file = home / name
    if not file.exists():
        raise LanduseError(f"{file} is not here: run dvc repro in {home} before experiments in copies of it")
    return f"{SQLITE}{file}"


def refuse_unreadable(uri: str) -> None:
    """Raise LanduseError for an address that MLflow or a database driver cannot read, or would take for another."""
    try:
        scheme = urlsplit(uri).scheme
        if scheme.startswith("http"):
            readable = not is_ambiguous(uri)
        else:
            readable = scheme.partition("+")[0] not in DATABASES or bool(make_url(uri))
    except (ValueError, ArgumentError):
        readable = False
    if not readable:
        raise LanduseError(f"MLFLOW_TRACKING_URI = {public(uri)} can be read in several ways, or not at all: {ENCODED}")


def refuse_misread_path() -> None:
    """Raise LanduseError where MLflow would decode the path of the project, and keep files in another folder."""
    here = str(Path.cwd())
    if unquote(here) != here or "?" in here:
        raise LanduseError(f"MLflow would take {here} for another folder: move the project to a path without % and ?")


def with_remedy(complaint: str) -> str:
    """What MLflow complains of, in short, and what to do about it."""
    remedy = next(remedy for sign, remedy in REMEDIES.items() if re.search(sign, complaint))
    plain = re.split(BESIDES, re.sub(BEFORE, "", complaint))[0]
    return f"{shorten(plain, 240, placeholder=' …')}; {remedy}"


def transfer_errors() -> tuple[type[Exception], ...]:
    """What goes wrong on the way to files of runs that a server or S3 keeps; MLflow lets it through as it is."""
    amazon = (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("boto3.exceptions", "Boto3Error"),
    )
    return RequestException, *(getattr(sys.modules[name], kind) for name, kind in amazon if name in sys.modules)


def may_pass(error: Exception) -> bool:
    """Whether the store did not answer, or was busy, rather than refused."""
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code >= 500
    unanswered = isinstance(error, OperationalError) or getattr(error, "error_code", None) in NO_ANSWER
    return unanswered and not re.search(LASTING, str(error))
