"""PostgreSQL and an S3 store as processes of this machine, in place of the images that compose.yaml names."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pwd import getpwnam
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from compose import LOOPBACK, ROOT, Machine
from waiting import wait_for

DEBIAN = Path("/usr/lib/postgresql")  # Debian's packages put nothing of it on the path
JUICEFS = Path(sys.executable).with_name("juicefs")
BUCKET = "mlflow"
START_SECONDS = 120


def postgresql_programs() -> Path:
    """Return the folder of PostgreSQL's programs; skips the test if it is not installed."""
    if folders := [*DEBIAN.glob("*/bin/initdb")]:
        return max(folders, key=lambda path: int(path.parts[-3])).parent
    if initdb := which("initdb"):
        return Path(initdb).parent
    pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")


@dataclass
class Server:
    """A server as a process that can be stopped and started again; its data stay."""

    command: tuple[object, ...]
    log: Path
    wait: Callable[[subprocess.Popen], None]
    how: dict[str, Any] = field(default_factory=dict)
    end: signal.Signals = signal.SIGTERM
    process: subprocess.Popen | None = None

    def start(self, *more: str) -> None:
        """Start it, with more options if there are any, and wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                (*self.command, *more), stdout=log, stderr=log, start_new_session=True, **self.how
            )
        self.wait(self.process)

    def stop(self) -> None:
        """End it, if it runs."""
        if self.process:
            self.process.send_signal(self.end)
            self.process.wait(60)
            self.process = None


@contextmanager
def postgresql(machine: Machine) -> Iterator[Server]:
    """Run PostgreSQL with the databases of compose.yaml, as its own user where the tests run as root."""
    programs, env = postgresql_programs(), machine.environment("postgres")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    with TemporaryDirectory(prefix="landuse-postgres-", ignore_cleanup_errors=True) as folder:
        (password := Path(folder, "password")).write_text(env["POSTGRES_PASSWORD"])
        if user:
            for path in (folder, password):
                os.chown(path, getpwnam(user).pw_uid, getpwnam(user).pw_gid)
        initdb = ("--username=postgres", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        data = f"{folder}/data"
        subprocess.run((programs / "initdb", data, *initdb), cwd="/", user=user, check=True, capture_output=True)
        options = ("-c", f"listen_addresses={LOOPBACK}", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off")

        def wait(process: subprocess.Popen) -> None:
            machine.wait_until_healthy("postgres", process, Path("/"), env | {"PATH": f"{programs}:{env['PATH']}"})

        command = (programs / "postgres", "-D", data, "-p", machine.ports["postgres"], *options)
        how = {"cwd": "/", "user": user}
        server = Server(
            command, machine.folder / "postgres.log", wait, how, signal.SIGINT
        )  # without waiting for clients
        try:
            server.start()
            create_databases(programs, env)
            yield server
        finally:
            server.stop()


def create_databases(programs: Path, env: dict[str, str]) -> None:
    """Create the databases as PostgreSQL's image does with what is mounted into its folder of scripts."""
    psql = (programs / "psql", f"--host={LOOPBACK}", "--username=postgres", "--no-psqlrc", "--set=ON_ERROR_STOP=1")
    script = f"--file={ROOT / 'containers' / 'databases.sql'}"
    subprocess.run((*psql, script), env=env | {"PGPASSWORD": env["POSTGRES_PASSWORD"]}, check=True, capture_output=True)


@contextmanager
def s3(machine: Machine) -> Iterator[Server]:
    """Run JuiceFS' S3 gateway with the bucket of compose.yaml."""
    if not JUICEFS.exists():
        pytest.skip("juicefs is not installed: requirements/dev.txt has it for Linux on x86-64")
    keys = machine.environment("s3")
    address = f"{LOOPBACK}:{machine.ports['s3']}"
    storage = ("--storage=file", f"--bucket={machine.folder}/s3/")
    subprocess.run((JUICEFS, "format", *storage, metadata(machine), "team"), check=True, capture_output=True)
    env = {"MINIO_ROOT_USER": keys["ROOT_ACCESS_KEY"], "MINIO_ROOT_PASSWORD": keys["ROOT_SECRET_KEY"]}
    options = ("--multi-buckets", "--no-usage-report", f"--cache-dir={machine.folder}/s3-cache")
    command = (JUICEFS, "gateway", metadata(machine), address, *options)
    how = {"env": os.environ | env | {"HOME": str(machine.folder)}}
    gateway = Server(command, machine.folder / "s3.log", partial(wait_for_bucket, machine), how)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


def metadata(machine: Machine) -> str:
    """Return the address of the records of JuiceFS."""
    return f"sqlite3://{machine.folder}/s3.db"


def s3_client(machine: Machine):
    """Return a client with the keys that compose.yaml gives to MLflow's server."""
    env = machine.environment("mlflow")
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        region_name=env["AWS_DEFAULT_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )


def wait_for_bucket(machine: Machine, gateway: subprocess.Popen) -> None:
    """Wait until the gateway answers, and create the bucket unless it is there."""

    def is_there() -> bool:
        assert gateway.poll() is None, machine.log("s3")
        with suppress(BotoCoreError, ClientError), closing(s3_client(machine)) as client:
            if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
            return True
        return False

    wait_for(is_there, START_SECONDS)
