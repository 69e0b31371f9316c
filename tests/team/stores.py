"""PostgreSQL and an S3 store as processes of this machine, in place of the images that compose.yaml names."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pwd import getpwnam
from shutil import which
from tempfile import TemporaryDirectory

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


@contextmanager
def postgresql(machine: Machine) -> Iterator[None]:
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
        with (machine.folder / "postgres.log").open("w") as log:
            server = subprocess.Popen(
                (programs / "postgres", "-D", data, "-p", machine.ports["postgres"], *options),
                cwd="/", user=user, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            machine.wait_until_healthy("postgres", server, Path("/"), env | {"PATH": f"{programs}:{env['PATH']}"})
            create_databases(programs, env)
            yield
        finally:
            server.terminate()
            server.wait(30)


def create_databases(programs: Path, env: dict[str, str]) -> None:
    """Create the databases as PostgreSQL's image does with what is mounted into its folder of scripts."""
    psql = (programs / "psql", f"--host={LOOPBACK}", "--username=postgres", "--no-psqlrc", "--set=ON_ERROR_STOP=1")
    script = f"--file={ROOT / 'containers' / 'databases.sql'}"
    subprocess.run((*psql, script), env=env | {"PGPASSWORD": env["POSTGRES_PASSWORD"]}, check=True, capture_output=True)


@contextmanager
def s3(machine: Machine) -> Iterator[object]:
    """Run JuiceFS' S3 gateway with the bucket of compose.yaml; yield a client of it."""
    if not JUICEFS.exists():
        pytest.skip("juicefs is not installed: requirements/dev.txt has it for Linux on x86-64")
    keys = machine.environment("s3")
    metadata, address = f"sqlite3://{machine.folder}/s3.db", f"{LOOPBACK}:{machine.ports['s3']}"
    storage = ("--storage=file", f"--bucket={machine.folder}/s3/")
    subprocess.run((JUICEFS, "format", *storage, metadata, "team"), check=True, capture_output=True)
    env = {"MINIO_ROOT_USER": keys["ROOT_ACCESS_KEY"], "MINIO_ROOT_PASSWORD": keys["ROOT_SECRET_KEY"]}
    options = ("--multi-buckets", "--no-usage-report", f"--cache-dir={machine.folder}/s3-cache")
    with (machine.folder / "s3.log").open("w") as log:
        gateway = subprocess.Popen(
            (JUICEFS, "gateway", *options, metadata, address),
            env=os.environ | env | {"HOME": str(machine.folder)}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        client = s3_client(machine)
        create_bucket(client, gateway, machine)
        yield client
        client.close()
    finally:
        gateway.terminate()
        gateway.wait(30)


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


def create_bucket(client, gateway: subprocess.Popen, machine: Machine) -> None:
    """Create the bucket once the gateway answers."""

    def is_created() -> bool:
        assert gateway.poll() is None, machine.log("s3")
        with suppress(BotoCoreError, ClientError):
            client.create_bucket(Bucket=BUCKET)
            return True
        return False

    wait_for(is_created, START_SECONDS)
