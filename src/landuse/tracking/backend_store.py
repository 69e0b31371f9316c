"""MLflow's backend store: its address, the experiment of this project, and one-line errors with remedies."""

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
from mlflow.store.db import utils as db_utils
from requests import RequestException
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from landuse.core.addresses import ENCODING_HINT, is_ambiguous, public
from landuse.core.errors import LanduseError, Unavailable, describe_os_error, one_line
from landuse.core.paths import DEFAULT_STORE, LOGIN, SQLITE, tracking_uri
from landuse.core.proxies import LOOPBACK, refuse_unsupported_proxy
from landuse.tracking.git_remote import keep_origin_public

EXPERIMENT = "landuse"
FILES = "mlruns"  # the artifact folder beside a store that is an SQLite file
REREGISTER = "dvc repro --single-item --force register"  # although DVC sees no change
REMEDIES = {  # by a pattern in the message of MLflow or the database; the first match counts
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
    "/mlflow-artifacts/.* failed": (
        "MLflow's server, or the store of its files, is out of reach, missing, full, or refuses its keys: the log of "
        "that server says which"
    ),
    "": "check MLFLOW_TRACKING_URI and that it is up",
}
DATABASES = frozenset({"mysql", "mssql", "postgresql", "sqlite"})  # MLflow's
NOISE_AFTER = r"\s\[SQL: | with exception |\s\(Background on "  # cut the message there
NOISE_BEFORE = r"\(raised as a result of [^)]*\)\s*"
PERMANENT = "readonly|read-only|disk is full"
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
FIRST = {RETRIES: "2", TIMEOUT: "10"}  # half a minute in all until a server that does not answer is told of
LATER = {RETRIES: "5", TIMEOUT: "30"}  # a minute of waiting: what was begun survives a restart of the server
CONNECT_ATTEMPTS = 8  # to a database, half a minute in all
NO_ANSWER_CODES = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"})


@contextmanager
def store() -> Iterator[str]:
    """Connect to MLflow's store and select the experiment of this project; yield the URI without secrets.

    Raises LanduseError as `connect` does, and if the store would write into the folder that the project was in before.
    """
    with connect() as uri:
        experiment = mlflow.set_experiment(EXPERIMENT)
        wait_longer_from_now_on()
        if uri.startswith(SQLITE) and Path(uri.removeprefix(SQLITE)).resolve() == local_store_file().resolve():
            refuse_files_elsewhere(experiment.artifact_location)
        yield uri


def wait_longer_from_now_on() -> None:
    """Be patient with a server that has answered, unless the user chose how long."""
    for name, value in LATER.items():
        if os.environ[name] == FIRST[name]:
            os.environ[name] = value


def refuse_unfit_local_store() -> None:
    """Raise LanduseError as `store` does, for the SQLite file beside the project, whatever `MLFLOW_TRACKING_URI` is."""
    refuse_misread_path()
    if local_store_file().exists():
        with suppress(MlflowException, SQLAlchemyError):  # a damaged file: whatever opens it next reports that
            if experiment := MlflowClient(f"{SQLITE}{local_store_file()}").get_experiment_by_name(EXPERIMENT):
                refuse_files_elsewhere(experiment.artifact_location)


def refuse_files_elsewhere(location: str) -> None:
    """Raise LanduseError if the project was moved or copied: MLflow never changes the location of an experiment."""
    before = project_folder_of(location)
    if not before or Path(before, FILES).resolve() == (local_store_file().parent / FILES).resolve():
        return
    file = local_store_file().name
    if os.path.exists(os.path.join(before, file)):
        raise LanduseError(
            f"{file} is a copy of that in {before}, and its runs would be written there: move {file} and {FILES}/ "
            f"away from here; {REREGISTER} then begins a registry of this folder"
        )
    link = f'ln -s "$PWD" {quote(before)}'
    remedy = f"move away what is left in {before}, then {link}" if os.path.lexists(before) else link
    raise LanduseError(f"{file} keeps its files in {before}, where the project was: {remedy}")


def project_folder_of(location: str) -> str:
    """Return the project folder of a local artifact location, or an empty string if the location is in none."""
    folder, separator, _ = location.removeprefix("file://").partition(f"/{FILES}/")
    return folder if separator else ""


def local_store_file() -> Path:
    """Return the SQLite file beside the project; in a copy that DVC runs below `.dvc/`, that of the original."""
    home = next((folder.parent for folder in Path.cwd().parents if folder.name == ".dvc"), Path.cwd())
    return home / DEFAULT_STORE.removeprefix(SQLITE)


@contextmanager
def connect() -> Iterator[str]:
    """Connect to the store in `MLFLOW_TRACKING_URI`, or the file beside the project; yield its URI without secrets.

    Turns errors of MLflow and its database, within the context, into a one-line LanduseError; into Unavailable if the
    store does not answer.
    """
    for name, value in FIRST.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_TRACKING_URI"] = named_store()
    prepare_connection(os.environ["MLFLOW_TRACKING_URI"])
    db_utils.MAX_RETRY_COUNT = CONNECT_ATTEMPTS  # MLflow has no setting for it
    uri = public(os.environ["MLFLOW_TRACKING_URI"])
    if uri != os.environ["MLFLOW_TRACKING_URI"]:  # MLflow would print the secrets
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    keep_origin_public()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # no traceback before our one line
    try:
        yield uri
    except handled_errors() as error:
        if isinstance(error.__cause__, OSError) and (complaint := describe_os_error(error.__cause__)):
            raise LanduseError(complaint) from None
        kind = Unavailable if is_temporary(error) else LanduseError
        raise kind(f"MLflow at {uri}: {with_remedy(one_line(error))}") from None


def prepare_connection(uri: str) -> None:
    """Raise LanduseError if a store is behind a proxy of an unsupported kind.

    For a store on this machine, ignore the user's .netrc, whose logins are meant for other hosts.
    """
    if uri.startswith("http"):
        refuse_unsupported_proxy(uri)
        if urlsplit(uri).hostname in LOOPBACK:
            os.environ["NETRC"] = os.devnull


def named_store() -> str:
    """Return the URI in `MLFLOW_TRACKING_URI`, or of the SQLite file beside the project.

    An experiment that DVC runs in a temporary copy below `.dvc/` uses the file of the original project. Raises
    LanduseError if that does not exist yet (artifacts would be kept in the copy), and if MLflow would misread the path
    of the project or the address.
    """
    uri = tracking_uri()
    if not uri.startswith(SQLITE):
        refuse_unreadable(uri)
        return uri
    refuse_misread_path()
    home, name = local_store_file().parent, uri.removeprefix(SQLITE)
    if home == Path.cwd() or Path(name).is_absolute():
        return uri
    file = home / name
    if not file.exists():
        raise LanduseError(f"{file} is not here: run dvc repro in {home} before experiments in copies of it")
    return f"{SQLITE}{file}"


def refuse_unreadable(uri: str) -> None:
    """Raise LanduseError if MLflow or a database driver cannot parse the address, or would misread it."""
    try:
        scheme = urlsplit(uri).scheme
        if scheme.startswith("http"):
            readable = not is_ambiguous(uri)
        else:
            readable = scheme.partition("+")[0] not in DATABASES or bool(make_url(uri))
    except (ValueError, ArgumentError):
        readable = False
    if not readable:
        raise LanduseError(
            f"MLFLOW_TRACKING_URI = {public(uri)} can be read in several ways, or not at all: {ENCODING_HINT}"
        )


def refuse_misread_path() -> None:
    """Raise LanduseError if MLflow would URL-decode the path of the project, and so keep files in another folder."""
    here = str(Path.cwd())
    if unquote(here) != here or "?" in here:
        raise LanduseError(f"MLflow would take {here} for another folder: move the project to a path without % and ?")


def with_remedy(complaint: str) -> str:
    """Shorten an error message of MLflow and append the remedy."""
    remedy = next(remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, complaint))
    plain = re.split(NOISE_AFTER, re.sub(NOISE_BEFORE, "", complaint))[0]
    return f"{shorten(plain, 240, placeholder=' …')}; {remedy}"


def handled_errors() -> tuple[type[Exception], ...]:
    """Return the exception types that `connect` turns into one line; a missing database driver is one of them."""
    return MlflowException, SQLAlchemyError, ModuleNotFoundError, *transfer_errors()


def transfer_errors() -> tuple[type[Exception], ...]:
    """Return the exception types of HTTP and S3 transfers of artifacts, which MLflow passes on unchanged."""
    amazon = (
        ("botocore.exceptions", "BotoCoreError"),
        ("botocore.exceptions", "ClientError"),
        ("boto3.exceptions", "Boto3Error"),
    )
    return RequestException, *(getattr(sys.modules[name], kind) for name, kind in amazon if name in sys.modules)


def is_temporary(error: Exception) -> bool:
    """Return whether the store did not answer or was busy, rather than refused."""
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code >= 500
    unanswered = isinstance(error, OperationalError) or getattr(error, "error_code", None) in NO_ANSWER_CODES
    return unanswered and not re.search(PERMANENT, str(error))
