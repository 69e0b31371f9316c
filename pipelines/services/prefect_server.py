"""The Prefect server as uvicorn runs it: behind the guard, and with SQLite transactions that queue for the write lock.

Prefect begins most transactions as readers. SQLite fails such a transaction at once, whatever its timeout, if it
writes after another one did, and the server answers 503: of ten simultaneous triggers several were lost.
"""

from contextlib import AbstractAsyncContextManager

from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from landuse.core.auth import AuthMiddleware

begin = AioSqliteConfiguration.begin_transaction


def app() -> AuthMiddleware:
    """Create the complete server (API, UI, scheduler and automations), protected by the login."""
    AioSqliteConfiguration.begin_transaction = begin_as_writer  # type: ignore[method-assign, assignment]  # replaced
    return AuthMiddleware(create_app(final=True))


def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    """Begin a transaction that acquires the write lock before its first read."""
    return begin(self, session, with_for_update=True)
