"""Basic authentication and origin checks for the servers that the project starts.

The login, `landuse:` and a random password, is created once per project in `.services/login`, which only its owner can
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
PASSWORD_BYTES = 24
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
GROUP_AND_OTHERS = 0o077  # permission bits of group and others
LOOPBACK = OriginCheck("http://127.0.0.1")
ANY_ADDRESS = OriginCheck("http://0.0.0.0")
TEAM_PASSWORD = "LANDUSE_MLFLOW_PASSWORD"
PUBLIC_PATHS = frozenset({"/health", "/version"})  # they only reveal that the server is up


def login() -> str:
    """Return the login of the project's servers as `user:password`, creating it if there is none yet.

    Raises LanduseError if other users can read it.
    """
    SERVICES.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    if not LOGIN.exists():
        create_login()
    if LOGIN.stat().st_mode & GROUP_AND_OTHERS:
        raise LanduseError(f"{LOGIN} can be read by other users: make down, remove it, then make up makes a new one")
    return LOGIN.read_text(encoding="ascii").strip()


def create_login() -> None:
    """Write a new login. If several processes do so at once, one wins and the others keep its login."""
    SERVICES.chmod(PRIVATE_FOLDER)  # a folder from an earlier version may be open to others
    part = LOGIN.with_name(f"{LOGIN.name}.{os.getpid()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="ascii") as file:
        file.write(f"{USER}:{secrets.token_urlsafe(PASSWORD_BYTES)}\n")
    try:
        with suppress(FileExistsError):
            os.link(part, LOGIN)
    finally:
        part.unlink()


def authorization_header(credentials: str) -> str:
    """Return the Authorization header for credentials given as `user:password`."""
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


class AuthMiddleware:
    """ASGI middleware that refuses foreign hosts and origins, and requests without the login.

    Without `credentials`, checking the login is left to the app.
    """

    def __init__(self, app: ASGIApp, credentials: str | None = None, origins: OriginCheck = LOOPBACK) -> None:
        self.app, self.origins = app, origins
        self.expected = credentials and authorization_header(credentials).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)

    def refusal(self, scope: Scope) -> PlainTextResponse | None:
        """Return the response that refuses a request, or None if it is allowed."""
        headers = dict(scope["headers"])
        if objection := self.origins.objection(scope.get("method", "GET"), headers):
            status, complaint = objection
            return PlainTextResponse(f"{complaint}\n", status)
        authorized = self.expected is None or hmac.compare_digest(headers.get(b"authorization", b""), self.expected)
        if authorized or scope["path"] in PUBLIC_PATHS:
            return None
        challenge = {"WWW-Authenticate": f'Basic realm="{USER}", charset="UTF-8"'}
        whereabouts = f"in {LOGIN} of the project" if self.origins is LOOPBACK else "known to whoever runs this server"
        return PlainTextResponse(f"The login is {whereabouts}.\n", 401, challenge)


def guarded_mlflow() -> AuthMiddleware:
    """Return MLflow's server behind the login: the app that `mlflow server --app-name landuse` runs.

    With `LANDUSE_MLFLOW_PASSWORD` it is a team's server: its login is `landuse` with that password, and it answers to
    the machine's other names and addresses, too.
    """
    from mlflow.server.fastapi_app import app

    if password := os.environ.get(TEAM_PASSWORD):
        return AuthMiddleware(app, f"{USER}:{password}", ANY_ADDRESS)
    return AuthMiddleware(app, login())
