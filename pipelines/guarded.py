"""The Prefect server behind the guard, as uvicorn runs it; the login it asks for itself."""

from prefect.server.api.server import create_app

from landuse.guard import Guard


def prefect_app() -> Guard:
    """The whole server: API, UI, scheduler and automations."""
    return Guard(create_app(final=True))
