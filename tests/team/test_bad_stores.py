"""A team's servers in trouble: one line each, nothing half registered or promoted, and the next command goes on."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shutil import copytree
from threading import Timer
from time import monotonic
from urllib.parse import quote

import gallery
import pytest
from compose import BIN, LOOPBACK, Machine
from gallery import NAME
from members import make_project, member_environment
from mlflow import MlflowClient
from ports import free_port
from stores import BUCKET, JUICEFS, Server, metadata, postgresql, postgresql_programs, s3, s3_client
from waiting import wait_for

from landuse import registry, tracking
from landuse.registry import FILES_TAG, audit_log
from landuse.tracking.names import facts_of

pytestmark = pytest.mark.slow

FOREVER = 600
BUSY_SECONDS = 75  # half a minute of waiting, and Python's start on a busy machine; MLflow itself waits over 100
NUMBERS = count(1)


@dataclass(frozen=True)
class Team:
    """The servers, and a project whose clones are the members."""

    machine: Machine
    database: Server
    store: Server
    project: Path
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """MLflow's server of compose.yaml on PostgreSQL and an S3 store."""
    folder = tmp_path_factory.mktemp("team")
    machine, project = Machine(folder / "server"), folder / "project"
    machine.folder.mkdir()
    project.mkdir()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.chdir(project)
        make_project(project)
        database = running.enter_context(postgresql(machine))
        store = running.enter_context(s3(machine))
        running.enter_context(machine.run("mlflow", machine.folder))
        yield Team(machine, database, store, project, member_environment(machine))


@pytest.fixture
def clone(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a model of its own, evaluated but not registered, as the working directory."""
    folder = copytree(team.project, tmp_path / "clone")
    monkeypatch.chdir(folder)
    for name, value in team.env.items():
        monkeypatch.setenv(name, value)
    gallery.make_twin(next(NUMBERS))
    return folder


def landuse(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the working directory."""
    return subprocess.run([BIN / "landuse", *arguments], env=os.environ | env, capture_output=True, text=True)


def versions() -> list[str]:
    """Return the numbers of the versions that have the model in `artifacts/model/`; their files are complete."""
    sha256 = json.loads(Path("artifacts/run.json").read_text())["tags"]["model.sha256"]
    with tracking.store():
        found = [
            version
            for version in MlflowClient().search_model_versions(f"name = '{NAME}'")
            if facts_of(version.tags)["model.sha256"] == sha256
        ]
        for version in found:
            folder = Path("fetched", version.version)
            registry.fetch_model(version, folder)
            assert facts_of(version.tags)[FILES_TAG] == registry.digest_of_files(folder)
    return [str(version.version) for version in found]


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, pattern: str) -> None:
    """Assert that a command ended with a code and one line."""
    assert done.returncode == code, done.stderr
    assert re.fullmatch(rf"landuse: .*{pattern}.*\n", done.stderr), done.stderr


def assert_registers() -> str:
    """Assert that registering works now and makes one version; return its number."""
    done = landuse("register")
    assert done.returncode == 0, done.stderr
    [number] = versions()
    return number


def test_a_database_that_is_down_is_told_soon(team: Team, clone: Path) -> None:
    team.database.stop()
    start = monotonic()
    done = landuse("register")
    seconds = monotonic() - start
    team.database.start()
    assert_one_line(done, 75, "check MLFLOW_TRACKING_URI and that it is up")
    assert seconds < BUSY_SECONDS
    assert_registers()


def start_until(team: Team, mark: str, *arguments: str, **env: str) -> subprocess.Popen:
    """Start a command, and return it as soon as MLflow's server has answered it a request with these words."""
    before = len(team.machine.log("mlflow"))
    command = subprocess.Popen([BIN / "landuse", *arguments], env=os.environ | env, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: mark in team.machine.log("mlflow")[before:] or command.poll() is not None, 120)
    assert command.poll() is None, command.communicate()[1]
    return command


def finish(command: subprocess.Popen) -> subprocess.CompletedProcess[str]:
    """Wait for the end of a command."""
    _, errors = command.communicate(timeout=FOREVER)
    return subprocess.CompletedProcess(command.args, command.returncode, stderr=errors)


UPLOAD = "PUT /api/2.0/mlflow-artifacts/artifacts/"
LEDGER_ENTRY = "POST /api/2.0/mlflow/runs/create"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


def test_a_database_that_is_away_for_a_minute_in_the_middle_of_a_registration_is_waited_for(
    team: Team, clone: Path
) -> None:
    command = start_until(team, UPLOAD, "register")
    team.database.stop()
    restart = Timer(60, team.database.start)
    restart.start()
    done = finish(command)
    restart.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(versions()) == 1


def test_a_database_that_dies_in_the_middle_of_a_registration_leaves_nothing_half(team: Team, clone: Path) -> None:
    command = start_until(team, UPLOAD, "register", **IMPATIENT)
    team.database.stop()
    done = finish(command)
    team.database.start()
    assert_one_line(done, 75, "check MLFLOW_TRACKING_URI and that it is up")
    assert versions() == []
    assert_registers()


def test_a_registration_that_is_killed_while_it_uploads_is_completed_by_the_next(team: Team, clone: Path) -> None:
    command = start_until(team, UPLOAD, "register")
    command.kill()
    command.communicate()
    assert versions() == []
    assert_registers()


def test_a_database_that_dies_in_the_middle_of_a_promotion_leaves_a_champion(team: Team, clone: Path) -> None:
    number = assert_registers()
    command = start_until(team, LEDGER_ENTRY, "promote", **IMPATIENT)
    team.database.stop()
    done = finish(command)
    team.database.start()
    assert_one_line(done, 75, "check MLFLOW_TRACKING_URI and that it is up")
    assert landuse("history").returncode == 0
    done = landuse("promote", number)
    assert done.returncode == 0, done.stderr
    with tracking.store():
        assert registry.aliases(NAME)["champion"] == number
        assert audit_log.champions(audit_log.finished_entries(NAME))[-1] == number
        assert audit_log.entries(NAME, audit_log.OPEN) == []


def remove_bucket(team: Team) -> None:
    with closing(s3_client(team.machine)) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=BUCKET, Key=item["Key"])
        client.delete_bucket(Bucket=BUCKET)


def make_read_only(team: Team) -> None:
    team.store.stop()
    team.store.start("--read-only")


def limit_files(team: Team, number: int) -> None:
    team.store.stop()
    limit = (JUICEFS, "config", metadata(team.machine), "--yes", "--inodes", str(number))
    subprocess.run(limit, check=True, capture_output=True)
    team.store.start()


STORE_FAILED = "/mlflow-artifacts/.* failed; MLflow's server, or the store of its files, is .* that server says which"
TROUBLES = {  # how it begins, and how it ends
    "its bucket is missing": (remove_bucket, lambda team: team.store.wait(team.store.process)),
    "it is read-only": (make_read_only, lambda team: limit_files(team, 0)),
    "it is full": (lambda team: limit_files(team, 1), lambda team: limit_files(team, 0)),
    "it is down": (lambda team: team.store.stop(), lambda team: team.store.start()),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_nothing_is_registered_in_a_store_if(trouble: str, team: Team, clone: Path) -> None:
    begin, end = TROUBLES[trouble]
    begin(team)
    done = landuse("register", **IMPATIENT)
    end(team)
    assert_one_line(done, 75, STORE_FAILED)
    assert versions() == []
    assert_registers()


def test_nothing_is_registered_if_the_server_has_wrong_keys_of_the_store(team: Team, clone: Path) -> None:
    other = Machine(team.machine.folder, team.machine.settings, team.machine.ports | {"mlflow": free_port()})
    with other.run("mlflow", other.folder, AWS_SECRET_ACCESS_KEY="wrong"):
        done = landuse("register", MLFLOW_TRACKING_URI=other.address("mlflow"), **IMPATIENT)
    assert_one_line(done, 75, STORE_FAILED)
    assert versions() == []


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_server_that_refuses_the_login_is_told_with_the_remedy(password: str, team: Team, clone: Path) -> None:
    done = landuse("register", MLFLOW_TRACKING_PASSWORD=password)
    assert_one_line(done, 1, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


def leftovers(team: Team, database: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of all that registering and promoting left behind."""
    for path in Path().rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()
    for name in ("mlflow", "postgres", "s3"):
        yield name, team.machine.log(name).encode()
    with closing(s3_client(team.machine)) as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for item in page.get("Contents", ()):
                yield item["Key"], client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
    address = f"postgresql://mlflow@{LOOPBACK}:{team.machine.ports['postgres']}/{database}"
    env = {"PGPASSWORD": team.machine.settings["POSTGRES_MLFLOW_PASSWORD"]}
    dump = subprocess.run([postgresql_programs() / "pg_dump", address], env=env, check=True, capture_output=True)
    assert b"COPY public.runs" in dump.stdout
    yield "database", dump.stdout


def assert_hidden(secret: str, team: Team, database: str) -> None:
    """Register and promote, and assert that a secret is nowhere, in none of its spellings."""
    outputs = []
    for command in ("register", "promote --force --reason test", "history", "promote 0"):
        done = landuse(*command.split())
        assert done.returncode == (1 if command == "promote 0" else 0), done.stderr
        outputs += [(command, done.stdout.encode()), (command, done.stderr.encode())]
    for name, content in [*outputs, *leftovers(team, database)]:
        for spelling in {secret, quote(secret, safe="")}:
            assert spelling.encode() not in content, name


def test_a_password_in_the_address_of_the_server_is_left_nowhere(
    team: Team, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = os.environ.pop("MLFLOW_TRACKING_PASSWORD")
    user, host = os.environ.pop("MLFLOW_TRACKING_USERNAME"), f"{LOOPBACK}:{team.machine.ports['mlflow']}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}:{password}@{host}")
    assert_hidden(password, team, "mlflow")


def test_a_password_in_the_address_of_the_database_is_left_nowhere(
    team: Team, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"{LOOPBACK}:{team.machine.ports['postgres']}"
    owner = {"PGPASSWORD": team.machine.settings["POSTGRES_PASSWORD"]}
    create = "CREATE DATABASE direct OWNER mlflow"
    psql = [postgresql_programs() / "psql", f"postgresql://postgres@{host}", "--command", create]
    subprocess.run(psql, env=owner, check=True, capture_output=True)
    password = team.machine.settings["POSTGRES_MLFLOW_PASSWORD"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow:{password}@{host}/direct")
    assert_hidden(password, team, "direct")


def test_a_database_that_a_member_names_itself_and_that_is_down_is_told_soon(team: Team, clone: Path) -> None:
    start = monotonic()
    done = landuse("register", MLFLOW_TRACKING_URI=f"postgresql://mlflow:secret@{LOOPBACK}:{free_port()}/mlflow")
    assert_one_line(done, 75, "check MLFLOW_TRACKING_URI and that it is up")
    assert monotonic() - start < BUSY_SECONDS and "secret" not in done.stderr
