"""The guard of the project's own servers: who knows the login, and from which pages a browser may ask.

The login, `landuse:` and a random password, is made once per project, in `.services/login`, which only its owner can
read.
"""

import base64
import hmac
import os
import secrets
from contextlib import suppress

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from landuse.core.errors import LanduseError
from landuse.core.origins import OriginCheck
from landuse.core.paths import LOGIN, SERVICES

USER = "landuse"
BYTES = 24
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
OF_OTHERS = 0o077  # what a mode lets group and others do
LOOPBACK = OriginCheck("http://127.0.0.1")
UNGUARDED = frozenset({"/health", "/version"})  # say nothing but that the server is up


def login() -> str:
    """The login of the project's servers as `user:password`, made where there is none yet.

    Raises LanduseError where others can read it.
    """
    SERVICES.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if not LOGIN.exists():
        make_login()
    if LOGIN.stat().st_mode & OF_OTHERS:
        raise LanduseError(f"{LOGIN} can be read by other users: make down, remove it, then make up makes a new one")
    return LOGIN.read_text(encoding="ascii").strip()


def make_login() -> None:
    """Write a new login. Of several processes that do so at once, one wins and the others leave its login in place."""
    SERVICES.chmod(PRIVATE_FOLDER)  # one of an earlier version may be open to others
    part = LOGIN.with_name(f"{LOGIN.name}.{os.getpid()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="ascii") as file:
        file.write(f"{USER}:{secrets.token_urlsafe(BYTES)}\n")
    try:
        with suppress(FileExistsError):
            os.link(part, LOGIN)
    finally:
        part.unlink()


def known_by(credentials: str) -> str:
    """The Authorization header of who knows a login."""
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


class Guard:
    """ASGI middleware: refuses hosts and pages that are not the server's own, and whoever does not know the login.

    Without `credentials`, the app itself asks for the login.
    """

    def __init__(self, app: ASGIApp, credentials: str | None = None) -> None:
        self.app = app
        self.expected = credentials and known_by(credentials).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def refusal(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that is not let through, None for one that is."""
        headers = dict(scope["headers"])
        if objection := LOOPBACK.objection(scope.get("method", "GET"), headers):
            status, complaint = objection
            return PlainTextResponse(f"{complaint}\n", status)
        known = self.expected is None or hmac.compare_digest(headers.get(b"authorization", b""), self.expected)
        if known or scope["path"] in UNGUARDED:
            return None
        asked = {"WWW-Authenticate": f'Basic realm="{USER}", charset="UTF-8"'}
        return PlainTextResponse(f"The login is in {LOGIN} of the project.\n", 401, asked)


def guarded_mlflow() -> Guard:
    """MLflow's server behind the login: the app that `mlflow server --app-name landuse` runs."""
    from mlflow.server.fastapi_app import app

    return Guard(app, login())
