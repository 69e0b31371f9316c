"""Where a search is kept: an SQLite file of the project, or a PostgreSQL database that several machines share."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import Dialect, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from landuse.core.addresses import public
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.paths import SQLITE, TUNE

FILE, LOCK = TUNE / "study.db", TUNE / "lock"
BEAT_SECONDS, GRACE_SECONDS = 15, 60  # a trial that its process has not confirmed for so long is lost
CONNECT_SECONDS = "15"
AWAY_SECONDS, RETRY_SECONDS = 60, 2  # that a server may be away in the middle of a search; between two attempts
SQLITE_SETTINGS = {"timeout": 60}  # seconds to wait for another process's transaction
POSTGRESQL_SETTINGS = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
LOCK_KEY = 0x6C616E64757365  # of the advisory lock in PostgreSQL: the letters of `landuse`
LOCK_SECONDS = 120  # after which PostgreSQL takes the lock from a machine that no longer answers
DISK_ERRORS = "disk is full|disk I/O|readonly"  # SQLite messages about the disk rather than the file
LOGIN_NAMES = r'(user|role) "[^"]*"'
REFUSALS = {  # by a pattern in a message of PostgreSQL, which may name the user
    "authentication failed|no password supplied|role .* does not exist|pg_hba|not permitted to log in": (
        "refuses the login: check its user there, and the password in PGPASSWORD or ~/.pgpass"
    ),
    "database .* does not exist": "does not exist: create the database, or name another",
    "permission denied": "lets this user make no tables: make it the owner of the database, or name another",
}


@contextmanager
def open_storage(address: str | None) -> Iterator[RDBStorage]:
    """Open the storage of all searches, by default the file of this project; close it at the end.

    Raises LanduseError if it is damaged or refused, and Unavailable if it does not answer, now or later.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with one_line_errors(address):
        storage = make_storage(address)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def make_storage(address: str | None) -> RDBStorage:
    """Connect to a storage, and create its tables if it is new. Raises LanduseError if it has tables of others."""
    os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_SECONDS)
    TUNE.mkdir(parents=True, exist_ok=True)
    url = address or f"{SQLITE}{FILE}"
    settings: dict[str, Any] = POSTGRESQL_SETTINGS if address else SQLITE_SETTINGS
    engine = create_engine(url, connect_args=settings, poolclass=NullPool)
    with exclusive(engine):
        tables = inspect(engine).get_table_names()
        if "alembic_version" in tables and "studies" not in tables:
            raise LanduseError(f"{describe(address)} has tables of another program: name a database of its own")
        with optuna_warnings_off():
            storage = RDBStorage(
                url.replace("{", "{{").replace("}", "}}"),  # Optuna takes it for a template
                engine_kwargs={"connect_args": settings, "pool_pre_ping": True},
                heartbeat_interval=BEAT_SECONDS,
                grace_period=GRACE_SECONDS,
            )
    if address:
        event.listen(storage.engine, "do_connect", connect_patiently)
    return storage


def connect_patiently(dialect: Dialect, _: object, arguments: list[Any], options: dict[str, Any]) -> DBAPIConnection:
    """Connect to a server that answered before, and may be starting anew: wait for it for a minute."""
    end = monotonic() + AWAY_SECONDS
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            if monotonic() > end:
                raise
        sleep(RETRY_SECONDS)


@contextmanager
def exclusive(engine: Engine) -> Iterator[None]:
    """Hold the lock of all searches in a storage; a process that dies loses it.

    Raises Unavailable if PostgreSQL does not answer, or has taken the lock from this process meanwhile.
    """
    if engine.dialect.name == "sqlite":
        with FileLock(LOCK):
            yield
        return
    with ExitStack() as transaction:
        with one_line_errors(engine.url.render_as_string()):
            connection = transaction.enter_context(engine.begin())
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK_KEY})"))
        yield
        with one_line_errors(engine.url.render_as_string()):
            transaction.close()


@contextmanager
def optuna_warnings_off() -> Iterator[None]:
    """Ignore warnings of Optuna: that heartbeats are experimental, and meant for another way of running trials."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def one_line_errors(address: str | None) -> Iterator[None]:
    """Turn errors of a storage into a one-line LanduseError; into Unavailable if it does not answer."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg2":
            raise
        remedy = "pip install 'psycopg2-binary>=2.9.10,<3'"
        raise LanduseError(f"{describe(address)} needs psycopg2, which is not installed: {remedy}") from None
    except (SQLAlchemyError, StorageInternalError) as error:
        raise explain(error, address) from None


def explain(error: Exception, address: str | None) -> LanduseError:
    """Describe an error of a storage, with the remedy and without the login."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    reason = re.sub(LOGIN_NAMES, r"\1", str(getattr(cause, "orig", cause)).partition("\n")[0])
    if address is None:
        is_disk_error = re.search(DISK_ERRORS, reason)
        remedy = "free some space, and make it writable" if is_disk_error else "remove it to start a new search"
        return LanduseError(f"{FILE} cannot be used ({reason}): {remedy}")
    for pattern, refusal in REFUSALS.items():
        if re.search(pattern, reason):
            return LanduseError(f"{describe(address)} {refusal}")
    if isinstance(cause, OperationalError | InterfaceError):
        goes_on = "the trials so far are kept, and the same command goes on once it is up"
        return Unavailable(f"{describe(address)} does not answer ({reason}): {goes_on}")
    return LanduseError(f"{describe(address)} cannot be used ({reason}): name another database")


def describe(address: str | None) -> str:
    """Name a storage without its login, as `tune.storage = postgresql://host/database`; by default the file."""
    return f"tune.storage = {public(address)}" if address else str(FILE)
