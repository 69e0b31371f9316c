"""The Prefect server as uvicorn runs it: behind the guard, on this machine only, and with SQLite that queues writers.

Prefect begins most transactions as readers. SQLite fails such a transaction at once, whatever its timeout, if it
writes after another one did, and the server answers 503: of ten simultaneous triggers several were lost.
"""

from contextlib import AbstractAsyncContextManager

from prefect.server.api import collections
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from landuse.core.auth import AuthMiddleware

# What the pages need from this server. Each would ask Amplitude for its configuration, whether analytics is on or not,
# and other sites for logos of blocks.
CONTENT_SECURITY_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
)
LOCAL_VIEW = "aggregate-worker-metadata"  # of work pools: Prefect has a copy of it
begin = AioSqliteConfiguration.begin_transaction


def app() -> AuthMiddleware:
    """Create the complete server (API, UI, scheduler and automations), protected by the login."""
    AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign, assignment]  # replaced
    return AuthMiddleware(team_app())


def team_app() -> "LocalContent":
    """Create the same server for a team, which has a database of its own, and leaves the login to Prefect."""
    collections.KNOWN_VIEWS = {LOCAL_VIEW: ""}  # without an address on GitHub, it reads its copy
    return LocalContent(create_app(final=True))


def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    """Begin a transaction that acquires the write lock before its first read."""
    return begin(self, session, with_for_update=True)


class LocalContent:
    """ASGI middleware that lets the pages of an app load from, and send to, their own server only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            await send(message)

        await self.app(scope, receive, send_with_policy)
