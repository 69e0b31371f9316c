"""The guard of the project's servers: its login, and which requests it lets through."""

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

from landuse.core.auth import Guard, login
from landuse.core.errors import LanduseError
from landuse.core.paths import LOGIN, SERVICES

OWN = "127.0.0.1:5000"
KNOWN = {"Authorization": f"Basic {b64encode(b'landuse:secret').decode()}"}
LINK = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
MAKE_ONE = "from landuse.core.auth import login; print(login())"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The login


def test_a_login_is_made_once_for_its_owner_only_also_in_a_folder_that_was_open(place: Path) -> None:
    SERVICES.mkdir(mode=0o755)
    first = login()
    assert first.startswith("landuse:") and len(first) > 30
    assert (mode(SERVICES), mode(LOGIN)) == (0o700, 0o600)
    assert login() == first and [path.name for path in SERVICES.iterdir()] == ["login"]


def test_two_projects_have_different_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found.add(login())
    assert len(found) == 2


def test_processes_that_make_a_login_at_once_agree_on_it(place: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    makers = [
        subprocess.Popen((sys.executable, "-c", MAKE_ONE), env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert {maker.communicate()[0].strip() for maker in makers} == {login()}


@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o666])
def test_a_login_that_others_can_read_is_refused_with_the_remedy(place: Path, open_to: int) -> None:
    login()
    LOGIN.chmod(open_to)
    with pytest.raises(LanduseError, match=r"^\.services/login can be read by other users: make down, remove it"):
        login()


# Who is let through


async def private(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that shows everything to everybody."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await PlainTextResponse("private")(scope, receive, send)


def ask(method: str = "GET", path: str = "/", kind: str = "http", **said: str | bytes) -> tuple[int, dict, bytes]:
    """Status, headers and body with which the guarded app answers; of a web socket, 200 or 403 and nothing else."""
    messages: list[Message] = []
    names = {"host": OWN} | {name.lower().replace("_", "-"): value for name, value in said.items()}
    headers = [(key.encode(), each if isinstance(each, bytes) else each.encode()) for key, each in names.items()]

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {"type": kind, "path": path, "headers": headers} | ({"method": method} if kind == "http" else {})
    asyncio.run(Guard(private, "landuse:secret")(scope, None, send))
    if kind == "websocket":
        return 200 if messages[0]["type"] == "websocket.accept" else 403, {}, b""
    start, *parts = messages
    found = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], found, b"".join(part["body"] for part in parts)


def test_a_program_that_knows_the_login_is_let_through() -> None:
    assert ask("POST", "/api", **KNOWN)[::2] == (200, b"private")


@pytest.mark.parametrize(
    "said",
    [
        {}, {"Authorization": "Basic"}, {"Authorization": "Basic bGFuZHVzZTo="}, {"Authorization": "Bearer secret"},
        {"Authorization": KNOWN["Authorization"].encode() + b"\xe9"}, {"Authorization": KNOWN["Authorization"].lower()},
        {"Cookie": "landuse=secret"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/api", "/health/", "//health", "/healthy", "/api/health", "/version/x"])
def test_without_the_login_nothing_is_shown_and_a_browser_asks_for_it(said: dict[str, str | bytes], path: str) -> None:
    status, headers, body = ask("GET", path, **said)
    assert status == 401 and b"private" not in body
    assert headers["www-authenticate"].startswith('Basic realm="landuse"')


def test_that_it_is_up_a_server_says_to_everybody() -> None:
    assert ask(path="/health")[0] == ask(path="/version")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "[::1]:5000", "127.0.0.1", "localhost:9000"])
def test_a_loopback_name_with_whatever_port_is_the_servers_own(host: str) -> None:
    assert ask(**KNOWN, host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "localhost@evil.example", "", "[", "0.0.0.0"],
)
@pytest.mark.parametrize("path", ["/", "/health"])
def test_another_host_is_refused_whoever_asks(host: str, path: str) -> None:
    assert ask(path=path, **KNOWN, host=host)[0] == 421


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "said",
    [
        {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9999"}, {"Origin": "null"}, {"Origin": ""},
        {"Origin": "http://localhost:5000"}, {"Origin": "http://127.0.0.1"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, {"Sec_Fetch_Site": "nonsense"},
        LINK | {"Sec_Fetch_Dest": "iframe"},
    ],
)  # fmt: skip
def test_a_page_of_another_origin_is_refused_though_the_browser_sends_the_login(
    said: dict[str, str], method: str
) -> None:
    status, headers, body = ask(method, "/api", **KNOWN, **said)
    assert status == 403 and "access-control-allow-origin" not in headers and b"private" not in body


def test_an_own_page_and_a_link_of_another_are_let_through() -> None:
    assert ask("POST", "/api", **KNOWN, origin=f"http://{OWN}", sec_fetch_site="same-origin")[0] == 200
    assert ask("GET", **KNOWN, **LINK)[0] == 200
    assert ask("POST", **KNOWN, **LINK)[0] == 403, "a form of another page is no link"


def test_a_web_socket_is_guarded_like_a_request() -> None:
    assert ask(kind="websocket", **KNOWN)[0] == 200
    assert ask(kind="websocket")[0] == 403
    assert ask(kind="websocket", **KNOWN, origin="http://evil.example")[0] == 403
    assert ask(kind="websocket", **KNOWN, host="evil.example")[0] == 403
