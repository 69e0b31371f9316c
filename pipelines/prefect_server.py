"""The Prefect server as `prefect server start` runs it, but that on SQLite whoever writes waits for who wrote before.

Prefect begins most transactions as readers. SQLite fails one at once that comes to write after another did, however
long it may wait, and the server answers 503: of ten triggers at once several were lost.
"""

import sys
from contextlib import AbstractAsyncContextManager

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

begin = AioSqliteConfiguration.begin_transaction


def begin_as_writer(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    """Begin a transaction that waits for its turn to write before it reads."""
    return begin(self, session, with_for_update=True)


if __name__ == "__main__":
    AioSqliteConfiguration.begin_transaction = begin_as_writer
    sys.argv[1:1] = ["server", "start"]
    sys.exit(app())
