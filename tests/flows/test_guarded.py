"""Protection of the servers of `make up` against hostile web pages and other users, on real servers."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from base64 import b64encode
from http.server import HTTPServer
from pathlib import Path
from subprocess import STDOUT
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from fresh import Fresh, receiver
from ports import free_port
from processes import ROOT
from waiting import wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

NOBODY = 65534
pytestmark = pytest.mark.slow

READS = ("/api/deployments/filter", "/api/flow_runs/filter", "/api/block_documents/filter", "/api/admin/settings")
STORE_READS = (
    "/", "/ajax-api/2.0/mlflow/experiments/search?max_results=9", "/api/2.0/mlflow/registered-models/search",
    "/get-artifact?path=report.html&run_uuid=1", "/graphql", "/api/2.0/mlflow-artifacts/artifacts",
)  # fmt: skip
REQUEST_AS_NOBODY = f"""
import json, os, sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

def ask(address, body):
    try:
        return urlopen(Request(address, body, {{"Content-Type": "application/json"}}), timeout=30).status
    except HTTPError as error:
        return error.code

ask(sys.argv[1], None)  # as root, since only root may be able to read what this imports
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
print(json.dumps([ask(address, body) for address in sys.argv[1:] for body in (None, b"{{}}")]))
"""
FETCH = """async ([address, options]) => {
    try { const answer = await fetch(address, options); return [answer.type, answer.status, await answer.text()] }
    catch (error) { return ["refused", 0, String(error)] }
}"""
OPEN_SOCKET = """address => new Promise(done => {
    const socket = new WebSocket(address, "prefect")
    socket.onopen = () => done("open")
    socket.onerror = () => done("refused")
})"""


def deployment(fresh: Fresh) -> str:
    return fresh.api("/deployments/name/promotion/landuse")["id"]


def status(address: str, **headers: str) -> int:
    try:
        with urlopen(Request(address, headers=headers), timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        error.close()
        return error.code


# A page of another origin


def test_a_page_of_another_origin_can_neither_read_nor_start_anything(
    fresh: Fresh, webhook: HTTPServer, browser: object
) -> None:
    user, _, password = fresh.login.partition(":")
    context = browser.new_context(http_credentials={"username": user, "password": password})
    context.new_page().goto(fresh.store)  # the browser now has the login and would send it
    page = context.new_page()
    with receiver() as evil:
        page.goto(f"http://127.0.0.1:{evil.server_port}/")  # an error page, but with this origin
        run = f"{fresh.prefect}/api/deployments/{deployment(fresh)}/create_flow_run"
        name = json.dumps({"name": "planted"})
        runs_before = len(fresh.api("/flow_runs/filter", {}))
        for mode in ("cors", "no-cors"):
            for address, body in ((run, "{}"), (f"{fresh.store}/api/2.0/mlflow/registered-models/create", name)):
                for kind in ("application/json", "text/plain"):
                    options = {"method": "POST", "mode": mode, "body": body, "headers": {"Content-Type": kind}}
                    answer = page.evaluate(FETCH, [address, options | {"credentials": "include"}])
                    assert answer[0] in ("refused", "opaque") and not answer[1], answer
        for address in (*map(fresh.prefect.__add__, READS), *map(fresh.store.__add__, STORE_READS)):
            assert page.evaluate(FETCH, [address, {"credentials": "include"}])[0] == "refused", address
        assert page.evaluate(OPEN_SOCKET, f"{fresh.prefect.replace('http', 'ws')}/api/events/out") == "refused"
    context.close()
    assert len(fresh.api("/flow_runs/filter", {})) == runs_before
    models = fresh.store + "/api/2.0/mlflow/registered-models/search"
    with urlopen(Request(models, headers={"Authorization": fresh.authorization})) as answer:
        assert "planted" not in answer.read().decode()


def test_a_browser_with_the_login_can_use_both_servers(fresh: Fresh, browser: object) -> None:
    user, _, password = fresh.login.partition(":")
    context = browser.new_context(http_credentials={"username": user, "password": password})
    page = context.new_page()
    page.goto(f"{fresh.store}/#/models")
    page.get_by_text("Registered Models").first.wait_for()
    page.goto(fresh.prefect)
    page.locator("input").fill(fresh.login)
    page.keyboard.press("Enter")
    page.get_by_text("Deployments").first.wait_for()
    context.close()


# Another user of the machine


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_can_use_neither_server(fresh: Fresh) -> None:
    addresses = (*map(fresh.prefect.__add__, READS), *map(fresh.store.__add__, STORE_READS))
    result = subprocess.run((sys.executable, "-c", REQUEST_AS_NOBODY, *addresses), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)) == {401}


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
def test_a_web_socket_of_prefect_is_closed_without_the_login(fresh: Fresh, path: str) -> None:
    address = f"{fresh.prefect.replace('http', 'ws')}/api/{path}"
    for hello in ({"type": "auth", "token": None}, {"type": "auth", "token": "guess"}, {"type": "subscribe"}):
        with connect(address, subprotocols=["prefect"], proxy=None) as socket:
            socket.send(json.dumps(hello))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)
    with pytest.raises(InvalidStatus), connect(address, origin="http://evil.example", proxy=None):
        pass


def test_files_of_the_project_are_not_readable_by_other_users(fresh: Fresh, scheduled: dict) -> None:
    paths = (".services", "mlflow.db", "mlruns", "data", "artifacts", "inbox", ".incoming", ".dvc/cache", ".dvc/tmp")
    for name in paths:
        assert not stat.S_IMODE((fresh.work.folder / name).stat().st_mode) & 0o077, name


def test_the_login_is_in_no_log_page_record_or_process_list(fresh: Fresh, scheduled: dict) -> None:
    user, _, password = fresh.login.partition(":")
    forms = [password.encode(), b64encode(fresh.login.encode())]
    listed = " ".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    assert not any(form.decode() in listed for form in forms)
    files = [path for path in fresh.work.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    holding = {path.name for path in files if any(form in path.read_bytes() for form in forms)}
    assert holding == {"login"} and len(files) > 1000
    assert password not in fresh.pipelines("status")


# Run parameters and hosts


@pytest.mark.parametrize("variable", ["command", "env", "env.PATH", "working_dir", "anything"])
def test_a_run_cannot_set_its_command_or_environment(fresh: Fresh, variable: str) -> None:
    with pytest.raises(HTTPError) as refusal:
        fresh.api(f"/deployments/{deployment(fresh)}/create_flow_run", {"job_variables": {variable: "touch pwned"}})
    assert refusal.value.code == 422 and "not allowed" in refusal.value.read().decode()


def test_a_server_rejects_requests_for_another_host(fresh: Fresh) -> None:
    for address in (f"{fresh.prefect}/api/health", f"{fresh.prefect}/", f"{fresh.store}/health", f"{fresh.store}/"):
        assert status(address, Host="evil.example", Authorization=fresh.authorization) == 421, address


# Temporary servers


def test_the_temporary_server_of_a_flow_asks_for_the_login(fresh: Fresh, tmp_path: Path) -> None:
    ports = {"LANDUSE_PREFECT_PORT": free_port(), "LANDUSE_MLFLOW_PORT": free_port()}
    folder = tmp_path / "project"
    fresh.work.ok("git", "clone", "--quiet", str(fresh.work.folder), str(folder))
    with subprocess.Popen(
        ("landuse", "flow", "ingestion"), cwd=folder, env=fresh.work.env(PYTHONPATH=f"{folder}/src", **ports),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as flow:  # fmt: skip
        address = next(line.split()[-1] for line in flow.stdout if "Starting temporary server on" in line)
        wait_for(lambda: is_reachable(f"{address}/api/health"), 60)
        assert status(f"{address}/api/flows/filter") == status(f"{address}/api/admin/settings") == 401
        output = flow.stdout.read()
    assert flow.returncode == 0, output


def is_reachable(address: str) -> bool:
    try:
        return status(address) == 200
    except OSError:
        return False


def test_make_ui_shows_the_store_only_with_the_login(fresh: Fresh, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    port = free_port()
    env = fresh.work.env(LANDUSE_MLFLOW_PORT=port, PYTHONPATH=f"{ROOT}/src:{tmp_path}")
    command = (sys.executable, "-m", "pipelines", "ui")
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=STDOUT, text=True) as ui:
        try:
            assert f"http://127.0.0.1:{port}" in ui.stdout.readline()
            wait_for(lambda: is_reachable(f"http://127.0.0.1:{port}/health"), 60)
            login = (tmp_path / ".services" / "login").read_text().strip()
            credentials = f"Basic {b64encode(login.encode()).decode()}"
            assert status(f"http://127.0.0.1:{port}/") == 401
            assert status(f"http://127.0.0.1:{port}/", Authorization=credentials) == 200
            taken = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
            assert taken.returncode == 1 and taken.stderr.startswith(f"landuse: port {port} is taken by process")
        finally:
            ui.send_signal(signal.SIGINT)
            printed = ui.communicate()[0]
    assert ui.returncode == 0 and "Traceback" not in printed, printed
    assert not is_reachable(f"http://127.0.0.1:{port}/health")
    served = subprocess.run(
        command, cwd=fresh.work.folder, env=fresh.work.env(**fresh.env), capture_output=True, text=True
    )
    assert served.returncode == 1 and "make up shows it" in served.stderr
