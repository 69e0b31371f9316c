"""A search on PostgreSQL that several processes join, as from several machines."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from shutil import copytree, ignore_patterns
from typing import Any

import psutil
import psycopg2
import pytest
import yaml
from compose import LOOPBACK, Machine
from mlflow import MlflowClient
from stores import postgresql
from test_shared_search import assert_complete, search_in_processes
from waiting import wait_for

from landuse.core.errors import LanduseError, Unavailable
from landuse.tune import storage
from landuse.tune.storage import open_storage

pytestmark = pytest.mark.slow

SPACE = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "batch_size": [4, 8]}
CURRENT = {"learning_rate": 0.02, "batch_size": 8}


@dataclass(frozen=True)
class Database:
    """A database for one search, with an owner whose password has characters that an address must escape."""

    port: str
    name: str
    user: str
    password: str
    administrator: str

    @property
    def address(self) -> str:
        """The address without the password."""
        return f"postgresql://{self.user}@{LOOPBACK}:{self.port}/{self.name}"

    @property
    def address_with_password(self) -> str:
        """The address with the password, escaped."""
        return self.address.replace("@", f":{self.password.replace('%', '%25').replace('@', '%40')}@")

    def ask(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run SQL as the administrator; return the rows of a SELECT."""
        connection = psycopg2.connect(
            host=LOOPBACK, port=self.port, user="postgres", password=self.administrator, dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def trials(self) -> list[tuple[int, str, int]]:
        """Return number, state and process of every trial."""
        rows = self.ask(
            "SELECT number, state, value_json FROM trials NATURAL JOIN trial_user_attributes WHERE key = 'process' "
            "ORDER BY number",
            self.name,
        )
        return [(number, state, int(json.loads(worker)["process.id"])) for number, state, worker in rows]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A PostgreSQL server."""
    machine = Machine(tmp_path_factory.mktemp("server"))
    with postgresql(machine):
        yield machine


@pytest.fixture
def database(server: Machine) -> Iterator[Database]:
    """An empty database of its own."""
    name, password = f"search_{token_hex(4)}", f"se{{cret@%{token_hex(8)}"
    administrator = server.environment("postgres")["POSTGRES_PASSWORD"]
    database = Database(server.ports["postgres"], name, f"{name}_owner", password, administrator)
    database.ask(f"CREATE ROLE {database.user} LOGIN PASSWORD '{password}'")
    database.ask(f"CREATE DATABASE {name} OWNER {database.user}")
    yield database
    database.ask(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def join(finished: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `landuse tune` in a copy of the project of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(number: int, storage: str, trials: int, *options: str, **env: str) -> subprocess.Popen[str]:
        if not (folder := tmp_path / str(number)).exists():
            copytree(finished, folder, ignore=ignore_patterns("mlflow.db", "mlruns"))
        params = yaml.safe_load((folder / "params.yaml").read_text())
        params["tune"] = {"trials": trials, "storage": storage, "space": SPACE}
        params["train"] |= CURRENT | {"epochs": 60, "patience": 60}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        process = subprocess.Popen(
            [sys.executable, "-m", "landuse", "tune", *options],
            cwd=folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{finished}/mlflow.db"} | env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process; return exit code, output and errors."""
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


@contextmanager
def stopped_in_a_trial(process: subprocess.Popen[str], database: Database) -> Iterator[int]:
    """Stop a process while it is at work on a trial; yield its number, and let the process go on."""

    def trial() -> int | None:
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGSTOP)
        mine = [number for number, state, pid in database.trials() if (state, pid) == ("RUNNING", process.pid)]
        if not mine:
            process.send_signal(signal.SIGCONT)
        return mine[0] + 1 if mine else None

    wait_for(lambda: has_table(database), 60)
    yield wait_for(trial, 120) - 1
    process.send_signal(signal.SIGCONT)


def has_table(database: Database) -> bool:
    """Return True once the search has its tables."""
    return bool(database.ask("SELECT 1 FROM pg_tables WHERE tablename = 'trial_heartbeats'", database.name))


def client_of(finished: Path) -> MlflowClient:
    """Return a client of the MLflow store of a project."""
    return MlflowClient(f"sqlite:///{finished}/mlflow.db")


def runs_of(finished: Path, database: Database) -> tuple[list[Any], list[Any]]:
    """Return the MLflow runs of the search, and the runs below them."""
    [(value,)] = database.ask("SELECT value_json FROM study_user_attributes WHERE key = 'runs'", database.name)
    client = client_of(finished)
    experiment = client.get_experiment_by_name("landuse").experiment_id
    below = [client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run}'") for run in json.loads(value)]
    return [client.get_run(run) for run in json.loads(value)], [run for runs in below for run in runs]


def assert_each_trial_has_one_run(finished: Path, database: Database, trials: int) -> None:
    """Check that exactly so many trials ended, and that each is one run below the one run of the search."""
    ended = [number for number, state, _ in database.trials() if state in ("COMPLETE", "PRUNED")]
    [parent], runs = runs_of(finished, database)
    assert len(ended) == trials and parent.info.status == "FINISHED"
    assert sorted(run.info.run_name for run in runs) == [f"trial-{number:03}" for number in ended]
    assert client_of(finished).list_artifacts(parent.info.run_id, "pictures")
    values = Counter((run.data.params["train.learning_rate"], run.data.params["train.batch_size"]) for run in runs)
    assert max(values.values()) == 1 and values[("0.02", "8")] == 1, "no values are tried twice, the current ones once"


def test_no_trial_is_lost_doubled_or_too_many_on_postgresql(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    search_in_processes(database.address_with_password)
    assert_complete(database.address_with_password)


def test_two_that_start_at_once_share_one_search_and_its_trials(
    database: Database, join: Callable[..., subprocess.Popen[str]], finished: Path, tmp_path: Path
) -> None:
    first = join(1, database.address_with_password, 15)
    second = join(2, database.address, 15, PGPASSWORD=database.password)
    results = [end(first), end(second)]
    assert [code for code, _, _ in results] == [0, 0], results
    assert_each_trial_has_one_run(finished, database, 15)
    assert {pid for *_, pid in database.trials()} == {first.pid, second.pid}
    best = [[line for line in output.splitlines() if "is the best" in line] for _, output, _ in results]
    assert best[0] == best[1] != []
    texts = [text for _, *texts in results for text in texts]
    files = [*tmp_path.rglob("*"), *finished.rglob("*")]
    texts += [path.read_bytes().decode("latin-1") for path in files if path.is_file() and path.name != "params.yaml"]
    texts += [str(row) for row in database.ask("SELECT key, value_json FROM trial_user_attributes", database.name)]
    for secret in (database.password, database.password[-16:], database.user):
        assert not [text for text in texts if secret in text]


def test_the_search_goes_on_if_one_process_is_killed_and_one_interrupted(
    database: Database, join: Callable[..., subprocess.Popen[str]], finished: Path
) -> None:
    killed, interrupted, last = (join(number, database.address_with_password, 16) for number in (1, 2, 3))
    with stopped_in_a_trial(killed, database) as lost:
        killed.kill()
        killed.wait()
    with stopped_in_a_trial(interrupted, database) as given_back:
        interrupted.send_signal(signal.SIGINT)
    code, output, errors = end(interrupted)
    assert code == 130 and "of 16 trials are kept" in output and errors == "landuse: stopped\n"
    code, output, errors = end(last)
    assert code == 0, (output, errors)
    assert_each_trial_has_one_run(finished, database, 16)
    assert {number for number, state, _ in database.trials() if state == "FAIL"} == {lost, given_back}


def test_a_database_that_is_away_in_the_middle_is_waited_for_and_at_the_start_told(
    database: Database, join: Callable[..., subprocess.Popen[str]], finished: Path
) -> None:
    process = join(1, database.address_with_password, 6)
    with stopped_in_a_trial(process, database):
        database.ask(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        database.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'")
    code, _, errors = end(join(1, database.address_with_password, 6))
    assert code == 75 and errors.count("\n") == 1 and "Traceback" not in errors, errors
    assert f"{database.port}/{database.name} does not answer" in errors and database.user not in errors
    database.ask(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
    code, _, errors = end(process)
    assert code == 0, errors
    assert_each_trial_has_one_run(finished, database, 6)


def test_a_database_that_stays_away_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", database.password)
    monkeypatch.setattr(storage, "AWAY_SECONDS", 1)
    with (
        pytest.raises(Unavailable, match="does not answer .* the same command goes on"),
        open_storage(database.address) as opened,
    ):
        database.ask(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        database.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.name}'")
        opened.get_all_studies()


def test_workers_search_together_and_end_with_their_command(
    database: Database, join: Callable[..., subprocess.Popen[str]], finished: Path
) -> None:
    command = join(1, database.address_with_password, 8, "--workers", "2")
    wait_for(lambda: has_table(database) and len({pid for *_, pid in database.trials()}) == 2, 120)
    workers = {pid for *_, pid in database.trials()}
    assert workers < {child.pid for child in psutil.Process(command.pid).children()}
    os.killpg(command.pid, signal.SIGINT)
    code, output, errors = end(command)
    assert code == 130 and "of 8 trials are kept" in output and errors == "landuse: stopped\n", errors
    assert not [pid for pid in workers if psutil.pid_exists(pid)]
    assert {state for _, state, _ in database.trials()} <= {"COMPLETE", "PRUNED", "FAIL"}
    command = join(1, database.address_with_password, 8, "--workers", "2")
    wait_for(lambda: len(alive := {pid for *_, pid in database.trials()} - workers) == 2 and alive, 120)
    os.kill(database.trials()[-1][-1], signal.SIGKILL)
    code, output, errors = end(command)
    assert code == 0 and output.count("is the best") == 1, errors
    assert "1 of 2 workers failed, and the others went on: died with exit code -9" in output
    assert_each_trial_has_one_run(finished, database, 8)


def refusal(address: str) -> LanduseError:
    """Return the error of opening a storage."""
    with pytest.raises(LanduseError) as caught, open_storage(address):
        pass
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_database_that_cannot_be_used_is_one_line_without_the_login(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = f"tune.storage = postgresql://{LOOPBACK}:{database.port}/{database.name}"
    login = "refuses the login: check its user there, and the password in PGPASSWORD or ~/.pgpass"
    assert str(refusal(database.address)) == f"{where} {login}"
    assert str(refusal(database.address.replace("@", ":wrong@"))) == f"{where} {login}"
    monkeypatch.setenv("PGPASSWORD", database.password)
    other = f"{database.address}_not"
    assert str(refusal(other)).endswith("_not does not exist: create the database, or name another")
    closed = refusal(database.address.replace(database.port, "1"))
    assert isinstance(closed, Unavailable) and "does not answer (connection to server at" in str(closed)
    database.ask("CREATE TABLE alembic_version (version_num varchar)", database.name)
    assert str(refusal(database.address)) == f"{where} has tables of another program: name a database of its own"
    database.ask("DROP TABLE alembic_version; ALTER SCHEMA public OWNER TO postgres", database.name)
    assert "lets this user make no tables" in str(refusal(database.address))
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    assert "needs psycopg2, which is not installed: pip install" in str(refusal(database.address))
