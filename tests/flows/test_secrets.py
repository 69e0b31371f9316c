"""A complete run leaks no secret: neither the login of its source nor that of its store."""

import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from fresh import archive
from locked import DIRECT, login_server
from ports import free_port
from waiting import wait_for
from workspace import LENIENT_GATE, Workspace, copy_project

LOGIN = "planted-user", "plan@ted/pass[word"
TOKEN = "planted-token#value"
STORE = "keeper-user", "kee%per:store pass"
QUERY = f"/my set.zip?token={quote_plus(TOKEN)}"
USER_FILES = {"params.yaml", ".git", "tests"}  # top-level names where users may write secrets themselves


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a real MLflow server that stores all artifacts itself."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    command = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1", *store]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(lambda: is_healthy(f"{address}/health"), 90)
            yield address
        finally:
            server.terminate()
            server.wait()


def is_healthy(address: str) -> bool:
    with suppress(OSError), DIRECT.open(address, timeout=5) as answer:
        return answer.status == 200
    return False


def secret_forms() -> set[bytes]:
    """Return every form in which a planted secret may appear."""
    plain = {*LOGIN, *STORE, TOKEN, ":".join(LOGIN), ":".join(STORE)}
    encoded = {write(text) for text in plain for write in (quote, quote_plus, lambda text: quote(text, safe=""))}
    pairs = {b64encode(":".join(pair).encode()).decode() for pair in (LOGIN, STORE)}
    return {text.encode() for text in plain | encoded | pairs}


def leaks(folder: Path) -> list[str]:
    """Return the files that contain a planted secret or a part of one."""
    secrets = secret_forms() | {b"planted-", b"ted/pass", b"keeper-user", b"store pass", b"store%20pass"}
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    generated = (path for path in files if path.relative_to(folder).parts[0] not in USER_FILES)
    return [f"{path}: {secret!r}" for path in generated for secret in secrets if secret in path.read_bytes()]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory, untouched: Workspace) -> Iterator[tuple[Workspace, str]]:
    """A project with source and store behind logins after a retraining, and everything that was printed."""
    folder = tmp_path_factory.mktemp("secrets")
    (store_folder := folder / "kept").mkdir()
    work = copy_project(untouched, folder / "project")
    work.change(lambda params: params["promote"].update(LENIENT_GATE))
    content = archive(folder / "set.zip", 0, 20).read_bytes()
    with ExitStack() as servers:
        behind = servers.enter_context(mlflow_server(store_folder))
        store = servers.enter_context(login_server(*STORE, upstream=behind))
        site = servers.enter_context(login_server(*LOGIN, token=quote_plus(TOKEN), archive=content))
        source = {"source": site + QUERY, "checksum": f"sha256:{sha256(content).hexdigest()}"}
        work.change(lambda params: params["data"].update(source))
        work.commit()
        result = work.run("landuse", "flow", "retraining", MLFLOW_TRACKING_URI=store)
        assert result.returncode == 0, result.stdout + result.stderr
        printed = result.stdout + result.stderr
        printed += work.ok("landuse", "info", MLFLOW_TRACKING_URI=store)
        verification = work.run("landuse", "verify", "1", MLFLOW_TRACKING_URI=store)
        assert "came out the same" in verification.stdout, verification.stdout + verification.stderr
        yield work, printed + verification.stdout + verification.stderr


@pytest.mark.slow
def test_a_complete_run_leaves_no_secret_in_any_file_of_project_and_store(finished_run: tuple[Workspace, str]) -> None:
    work, _ = finished_run
    assert len([path for path in work.folder.rglob("*") if path.is_file()]) > 500, "there are files to search"
    assert (work.folder / ".services" / "prefect" / "prefect.db").exists()
    assert leaks(work.folder) == []
    assert leaks(work.folder.parent / "kept") == []


@pytest.mark.slow
def test_a_complete_run_prints_no_secret(finished_run: tuple[Workspace, str]) -> None:
    _, printed = finished_run
    assert [secret for secret in secret_forms() if secret.decode() in printed] == []
    assert "/my set.zip" in printed, "the public part of the source is printed"
