"""A Prefect server of a team: named by a variable, asked before it is used, and its password printed nowhere."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import pytest
from ports import free_port
from prefect.types.names import BANNED_CHARACTERS

from landuse.core.auth import authorization_header
from landuse.core.errors import LanduseError, Unavailable
from pipelines.__main__ import check_team_servers
from pipelines.services import processes, team_server
from pipelines.services.processes import environment
from pipelines.steps.local_run import prepare_environment

BANNED = rf"[{''.join(BANNED_CHARACTERS)}]"
LANDUSE = Path(sys.executable).with_name("landuse")
SECRET = "team:planted-secret"


class Answers(BaseHTTPRequestHandler):
    """Answers as a Prefect server with a login, or with the status of its server if that is set."""

    def do_GET(self) -> None:
        signed_in = self.headers["Authorization"] == authorization_header(SECRET)
        known = 200 if self.path == "/api/admin/version" else 404
        self.send_response(self.server.status or (known if signed_in else 401))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the request log."""


@pytest.fixture
def server(work_dir: Path) -> Iterator[HTTPServer]:
    """A server that is the one of the team, in an environment without other variables about servers."""
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.status = None
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/api"
        variables = {"PATH": os.environ["PATH"], team_server.ADDRESS: address, team_server.LOGIN: SECRET}
        with patch.dict(os.environ, variables, clear=True):
            yield server
        server.shutdown()


def test_flows_and_services_use_the_server_of_the_team(server: HTTPServer) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    found = environment()
    assert (found["PREFECT_API_URL"], found["PREFECT_UI_URL"]) == (f"{address}/api", address)
    assert found["PREFECT_API_AUTH_STRING"] == SECRET and SECRET in found["PREFECT_API"]
    assert environment(with_server=False)["PREFECT_API_URL"] == f"{address}/api"
    assert [service.name for service in processes.services()] == ["mlflow", "worker", "inbox"]
    assert len(processes.all_services()) == 4, "one that was started before can still be stopped"


def test_each_folder_has_a_worker_of_its_own_name(work_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for folder in ("a/project", "b/project", "c/<50% & more>"):
        (work_dir / folder).mkdir(parents=True)
        monkeypatch.chdir(work_dir / folder)
        names.append(team_server.worker_name())
    assert len(set(names)) == 3 and names[0].startswith(f"project on {socket.gethostname()} (")
    assert not re.search(BANNED, names[2])


def test_a_server_that_asks_for_no_login_is_used_without_one(server: HTTPServer) -> None:
    del os.environ[team_server.LOGIN]
    server.status = 200
    team_server.check()
    assert environment()["PREFECT_API_AUTH_STRING"] == ""


def test_certificates_of_a_company_hold_for_the_server_of_the_team(server: HTTPServer) -> None:
    os.environ["SSL_CERT_FILE"] = "/company.pem"
    assert environment()["PREFECT_API_SSL_CERT_FILE"] == "/company.pem"
    del os.environ[team_server.ADDRESS]
    assert environment()["PREFECT_API_SSL_CERT_FILE"] == ""


def test_a_flow_runs_on_the_server_of_the_team(server: HTTPServer) -> None:
    prepare_environment()
    assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:{server.server_port}/api"


@pytest.mark.parametrize(
    "address",
    [
        "prefect:4200/api", "ftp://prefect/api", "http://prefect:4200", "http://prefect:4200/api?x=planted", "http:///api",
        "http://team:planted@127.0.0.1:4200/api", "http://127.0.0.1:port/api", "https://[prefect/api", "http://prefect:0/api",
    ],
)  # fmt: skip
def test_a_bad_address_is_refused_with_an_example(server: HTTPServer, address: str) -> None:
    os.environ[team_server.ADDRESS] = address
    with pytest.raises(LanduseError) as refusal:
        environment()
    begin, _, end = str(refusal.value).partition(": name an API")
    assert begin.startswith("LANDUSE_PREFECT_API_URL = ") and "planted" not in begin
    assert end == " such as http://prefect.example.org:4200/api, and its login in LANDUSE_PREFECT_API_AUTH_STRING"


def test_slashes_and_spaces_around_the_address_do_no_harm(server: HTTPServer) -> None:
    os.environ[team_server.ADDRESS] = f" {os.environ[team_server.ADDRESS]}/ "
    team_server.check()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, LanduseError, "refuses the login: set LANDUSE_PREFECT_API_AUTH_STRING to its user:password"),
        (403, LanduseError, "refuses the login: set LANDUSE_PREFECT_API_AUTH_STRING to its user:password"),
        (404, LanduseError, "is no API of a Prefect server (status 404): name another"),
        (503, Unavailable, "does not answer: check that it is up, and the address"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(
    server: HTTPServer, status: int, error: type[LanduseError], words: str
) -> None:
    server.status = status
    with pytest.raises(LanduseError) as refusal:
        team_server.check()
    assert type(refusal.value) is error
    assert str(refusal.value) == f"LANDUSE_PREFECT_API_URL = {os.environ[team_server.ADDRESS]} {words}"


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH\r\n"], ids=["closed at once", "another protocol"])
def test_a_program_that_does_not_speak_http_is_no_answer(server: HTTPServer, reply: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as client:
                client.recv(1000)
                client.sendall(reply)

        (thread := Thread(target=answer)).start()
        os.environ[team_server.ADDRESS] = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        with pytest.raises(Unavailable, match="does not answer"):
            team_server.check()
        thread.join()


def test_a_host_name_that_cannot_be_one_is_no_answer(server: HTTPServer) -> None:
    os.environ[team_server.ADDRESS] = "http://prefect..example/api"
    with pytest.raises(Unavailable, match="does not answer"):
        team_server.check()


def test_a_wrong_password_is_refused_and_not_printed(server: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ |= {team_server.LOGIN: "team:planted-wrong", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    problems = check_team_servers()
    printed = capsys.readouterr().out
    assert printed == f"prefect    DOWN   {os.environ[team_server.ADDRESS]}\n" and problems.keys() == {"prefect"}
    assert "refuses the login" in problems["prefect"] and "planted" not in problems["prefect"]


def test_a_status_shows_the_server_of_the_team(server: HTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_team_servers() == {}
    assert capsys.readouterr().out == f"prefect    up     {os.environ[team_server.ADDRESS]}\n"


def test_a_proxy_that_cannot_be_used_is_named(server: HTTPServer) -> None:
    os.environ |= {team_server.ADDRESS: "http://prefect.example/api", "http_proxy": "socks5://127.0.0.1:1"}
    with pytest.raises(LanduseError, match="http_proxy = socks5://127.0.0.1:1: landuse can go through HTTP proxies"):
        team_server.check()


def test_a_command_ends_in_one_line_if_the_server_is_down(project: Path) -> None:
    more = {team_server.ADDRESS: f"http://127.0.0.1:{free_port()}/api", team_server.LOGIN: SECRET}
    for command in ([LANDUSE, "flow", "ingestion"], [sys.executable, "-m", "pipelines", "up"]):
        done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True)
        assert done.returncode == 75 and done.stdout == ""
        assert done.stderr == (
            f"landuse: LANDUSE_PREFECT_API_URL = {more[team_server.ADDRESS]} does not answer: "
            "check that it is up, and the address\n"
        )
