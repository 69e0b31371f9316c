"""The Prefect server as uvicorn runs it: behind the guard, and on SQLite a writer waits for the one before.

Prefect begins most transactions as readers. SQLite fails one at once that comes to write after another did, however
long it may wait, and the server answers 503: of ten triggers at once several were lost.
"""

from contextlib import AbstractAsyncContextManager

from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from landuse.core.auth import Guard

begin = AioSqliteConfiguration.begin_transaction


def app() -> Guard:
    """The whole server: API, UI, scheduler and automations. It asks for the login itself."""
    AioSqliteConfiguration.begin_transaction = begin_as_writer
    return Guard(create_app(final=True))


def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    """Begin a transaction that waits for its turn to write before it reads."""
    return begin(self, session, with_for_update=True)
