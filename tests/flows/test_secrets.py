"""A whole run leaves no secret anywhere: neither the login of its source nor that of its store."""

import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from fresh import EASY, archive, wait_for
from locked import DIRECT, locked
from ports import free_port
from workspace import Workspace, small_project

LOGIN = "planted-user", "plan@ted/pass[word"
TOKEN = "planted-token#value"
STORE = "keeper-user", "kee%per:store pass"
QUERY = f"/my set.zip?token={quote_plus(TOKEN)}"
OF_THE_USER = {"params.yaml", ".git", "tests"}  # at the top: who writes a secret there knows


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real MLflow server that keeps all files itself."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    command = [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1", *store]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(lambda: answers(f"{address}/health"), 90)
            yield address
        finally:
            server.terminate()
            server.wait()


def answers(address: str) -> bool:
    with suppress(OSError), DIRECT.open(address, timeout=5) as answer:
        return answer.status == 200
    return False


def needles() -> set[bytes]:
    """Every form in which a planted secret may turn up."""
    plain = {*LOGIN, *STORE, TOKEN, ":".join(LOGIN), ":".join(STORE)}
    encoded = {write(text) for text in plain for write in (quote, quote_plus, lambda text: quote(text, safe=""))}
    pairs = {b64encode(":".join(pair).encode()).decode() for pair in (LOGIN, STORE)}
    return {text.encode() for text in plain | encoded | pairs}


def leaks(folder: Path) -> list[str]:
    """Files in which a planted secret stands, its words at least."""
    wanted = needles() | {b"planted-", b"ted/pass", b"keeper-user", b"store pass", b"store%20pass"}
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    mine = (path for path in files if path.relative_to(folder).parts[0] not in OF_THE_USER)
    return [f"{path}: {needle!r}" for path in mine for needle in wanted if needle in path.read_bytes()]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, str]]:
    """A project that a flow brought to its champion, source and store behind logins; and all that was printed."""
    folder = tmp_path_factory.mktemp("secrets")
    (kept := folder / "kept").mkdir()
    work = small_project(folder)
    work.change(lambda params: params["promote"].update(EASY))
    content = archive(folder / "set.zip", 0, 20).read_bytes()
    with ExitStack() as servers:
        behind = servers.enter_context(mlflow_server(kept))
        store = servers.enter_context(locked(*STORE, behind=behind))
        site = servers.enter_context(locked(*LOGIN, token=quote_plus(TOKEN), archive=content))
        source = {"source": site + QUERY, "checksum": f"sha256:{sha256(content).hexdigest()}"}
        work.change(lambda params: params["data"].update(source))
        work.commit()
        done = work.run("landuse", "flow", "retraining", MLFLOW_TRACKING_URI=store)
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout + done.stderr
        printed += work.ok("landuse", "info", MLFLOW_TRACKING_URI=store)
        again = work.run("landuse", "verify", "1", MLFLOW_TRACKING_URI=store)
        assert "came out the same" in again.stdout, again.stdout + again.stderr
        yield work, printed + again.stdout + again.stderr


@pytest.mark.slow
def test_a_whole_run_leaves_no_secret_in_any_file_of_project_and_store(ran: tuple[Workspace, str]) -> None:
    work, _ = ran
    assert len([path for path in work.folder.rglob("*") if path.is_file()]) > 500, "there is something to look at"
    assert (work.folder / ".services" / "prefect" / "prefect.db").exists()
    assert leaks(work.folder) == []
    assert leaks(work.folder.parent / "kept") == []


@pytest.mark.slow
def test_a_whole_run_prints_no_secret(ran: tuple[Workspace, str]) -> None:
    _, printed = ran
    assert [needle for needle in needles() if needle.decode() in printed] == []
    assert "/my set.zip" in printed, "what is public of the source is said"
