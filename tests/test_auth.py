"""Authentication of the project's servers: the login, and which requests are allowed."""

import asyncio
import os
import stat
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from landuse.core.auth import TEAM_PASSWORD, AuthMiddleware, guarded_mlflow, login
from landuse.core.errors import LanduseError
from landuse.core.paths import LOGIN, SERVICES

OWN_HOST = "127.0.0.1:5000"
AUTHORIZED = {"Authorization": f"Basic {b64encode(b'landuse:secret').decode()}"}
LINK_HEADERS = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
PRINT_LOGIN = "from landuse.core.auth import login; print(login())"


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The login


def test_a_login_is_created_once_and_only_its_owner_can_read_it(project_folder: Path) -> None:
    SERVICES.mkdir(mode=0o755)
    first = login()
    assert first.startswith("landuse:") and len(first) > 30
    assert (mode(SERVICES), mode(LOGIN)) == (0o700, 0o600)
    assert login() == first and [path.name for path in SERVICES.iterdir()] == ["login"]


def test_two_projects_have_different_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logins = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        logins.add(login())
    assert len(logins) == 2


def test_processes_that_create_a_login_at_once_agree_on_it(project_folder: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen((sys.executable, "-c", PRINT_LOGIN), env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert {process.communicate()[0].strip() for process in processes} == {login()}


@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o666])
def test_a_login_that_others_can_read_is_refused_with_the_remedy(project_folder: Path, open_to: int) -> None:
    login()
    LOGIN.chmod(open_to)
    with pytest.raises(LanduseError, match=r"^\.services/login can be read by other users: make down, remove it"):
        login()


# Which requests are allowed


async def private(scope: Scope, receive: Receive, send: Send) -> None:
    """An app without any access control."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await PlainTextResponse("private")(scope, receive, send)


GUARDED = AuthMiddleware(private, "landuse:secret")


def ask(
    method: str = "GET", path: str = "/", kind: str = "http", app: AuthMiddleware = GUARDED, **sent: str | bytes
) -> tuple[int, dict, bytes]:
    """Return status, headers and body of the guarded app's response; for a web socket only 200 or 403."""
    messages: list[Message] = []
    names = {"host": OWN_HOST} | {name.lower().replace("_", "-"): value for name, value in sent.items()}
    headers = [(key.encode(), each if isinstance(each, bytes) else each.encode()) for key, each in names.items()]

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {"type": kind, "path": path, "headers": headers} | ({"method": method} if kind == "http" else {})
    asyncio.run(app(scope, None, send))
    if kind == "websocket":
        return 200 if messages[0]["type"] == "websocket.accept" else 403, {}, b""
    start, *parts = messages
    received = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], received, b"".join(part["body"] for part in parts)


def test_a_program_with_the_login_is_allowed() -> None:
    assert ask("POST", "/api", **AUTHORIZED)[::2] == (200, b"private")


@pytest.mark.parametrize(
    "sent",
    [
        {}, {"Authorization": "Basic"}, {"Authorization": "Basic bGFuZHVzZTo="}, {"Authorization": "Bearer secret"},
        {"Authorization": AUTHORIZED["Authorization"].encode() + b"\xe9"},
        {"Authorization": AUTHORIZED["Authorization"].lower()}, {"Cookie": "landuse=secret"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api", "/health/", "//health", "/healthy", "/api/health", "/version/x"])
def test_without_the_login_nothing_is_shown_and_a_browser_asks_for_it(sent: dict[str, str | bytes], path: str) -> None:
    status, headers, body = ask("GET", path, **sent)
    assert status == 401 and b"private" not in body
    assert headers["www-authenticate"].startswith('Basic realm="landuse"')


def test_the_health_routes_need_no_login() -> None:
    assert ask(path="/health")[0] == ask(path="/version")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "[::1]:5000", "127.0.0.1", "localhost:9000"])
def test_a_loopback_host_with_any_port_is_accepted(host: str) -> None:
    assert ask(**AUTHORIZED, host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost@evil.example", "", "[", "0.0.0.0"],
)
@pytest.mark.parametrize("path", ["/", "/health"])
def test_another_host_is_refused_even_with_the_login(host: str, path: str) -> None:
    assert ask(path=path, **AUTHORIZED, host=host)[0] == 421


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"}, {"Origin": ""},
        {"Origin": "http://localhost:5000"}, {"Origin": "http://127.0.0.1"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, {"Sec_Fetch_Site": "nonsense"},
        LINK_HEADERS | {"Sec_Fetch_Dest": "iframe"},
    ],
)  # fmt: skip
def test_a_page_of_another_origin_is_refused_even_with_the_login(sent: dict[str, str], method: str) -> None:
    status, headers, body = ask(method, "/api", **AUTHORIZED, **sent)
    assert status == 403 and "access-control-allow-origin" not in headers and b"private" not in body


def test_requests_of_own_pages_and_links_from_others_are_allowed() -> None:
    assert ask("POST", "/api", **AUTHORIZED, origin=f"http://{OWN_HOST}", sec_fetch_site="same-origin")[0] == 200
    assert ask("GET", **AUTHORIZED, **LINK_HEADERS)[0] == 200
    assert ask("POST", **AUTHORIZED, **LINK_HEADERS)[0] == 403, "a form on another page is not a link"


def test_a_web_socket_is_checked_like_a_request() -> None:
    assert ask(kind="websocket", **AUTHORIZED)[0] == 200
    assert ask(kind="websocket")[0] == 403
    assert ask(kind="websocket", **AUTHORIZED, origin="http://evil.example")[0] == 403
    assert ask(kind="websocket", **AUTHORIZED, host="evil.example")[0] == 403


# The MLflow server of a team


@pytest.fixture
def team(project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> AuthMiddleware:
    """MLflow's server with a password of its own."""
    monkeypatch.setenv(TEAM_PASSWORD, "secret")
    guarded = guarded_mlflow()
    guarded.app = private
    return guarded


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
@pytest.mark.parametrize("host", ["mlflow:5000", "localhost:5000", "192.0.2.7", "mlflow.internal"])
def test_a_team_server_answers_to_private_names_with_its_password(team: AuthMiddleware, host: str) -> None:
    assert ask(app=team, **AUTHORIZED, host=host)[::2] == (200, b"private")
    status, _, body = ask(app=team, host=host)
    assert (status, body) == (401, b"The login is known to whoever runs this server.\n")
    assert not SERVICES.exists(), "it needs no project"


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
def test_a_team_server_refuses_public_names_and_pages_of_others(team: AuthMiddleware) -> None:
    assert ask(app=team, **AUTHORIZED, host="evil.example")[0] == 421
    assert ask(app=team, **AUTHORIZED, host="mlflow:5000", origin="http://evil.example")[0] == 403
