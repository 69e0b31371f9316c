"""Schedules in a time zone with summer time: every night has exactly one run."""

import asyncio
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prefect.server.schemas.schedules import CronSchedule

BERLIN = ZoneInfo("Europe/Berlin")
QUARTER = timedelta(minutes=15)
DAYS = 2


async def due(cron: str, noon: datetime) -> list[datetime]:
    """Return when runs are due in the nights after a noon, if the scheduler plans every quarter of an hour."""
    schedule, runs, end = CronSchedule(cron=cron, timezone=BERLIN.key), set(), noon + timedelta(days=DAYS)
    for quarter in range(24 * 4 * DAYS):
        dates = await schedule.get_dates(2, start=noon + quarter * QUARTER)
        runs.update(date.astimezone(UTC) for date in dates if date < end)
    return sorted(runs)


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 2 * * *", "59 2 * * *", "0 3 * * *"])
@pytest.mark.parametrize("noon", [datetime(2027, 3, 27, 11, tzinfo=UTC), datetime(2026, 10, 24, 10, tzinfo=UTC)])
def test_a_night_in_which_the_clock_changes_has_one_run(cron: str, noon: datetime) -> None:
    runs = [run.astimezone(BERLIN) for run in asyncio.run(due(cron, noon))]
    assert [run.day - noon.day for run in runs] == [1, 2]
    assert all(1 <= run.hour <= 3 for run in runs)
