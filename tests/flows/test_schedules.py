"""Schedules of prefect.yaml that the server does not have yet, without false alarms."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from processes import ROOT

from pipelines.services.schedules import describe_outdated, parse_schedule

NIGHTLY = {"cron": "0 3 * * *", "timezone": "UTC", "slug": "nightly"}
ENTRYPOINT = "pipelines/retraining.py:retraining"


def write(schedules: Any) -> None:
    """Write a prefect.yaml with one deployment; without schedules if that is None."""
    more = {} if schedules is None else {"schedules": schedules}
    content = {"deployments": [{"name": "landuse", "entrypoint": ENTRYPOINT} | more]}
    Path("prefect.yaml").write_text(yaml.safe_dump(content))


def deployed(*schedules: dict[str, Any], **changes: Any) -> list[DeploymentResponse]:
    """Return what the server answers of deployments: another one, and the one with these schedules."""
    rows = [DeploymentSchedule(**{"active": True} | parse_schedule(each) | changes) for each in schedules]
    names = {"other": [], "landuse": rows}
    return [
        DeploymentResponse(name=name, flow_id=uuid4(), entrypoint=ENTRYPOINT, schedules=there)
        for name, there in names.items()
    ]


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (NIGHTLY | {"cron": "30 2 * * *"}, NIGHTLY, "30 2 * * * UTC in prefect.yaml and 0 3 * * * UTC on the server"),
        (NIGHTLY | {"timezone": "Europe/Berlin"}, NIGHTLY, "0 3 * * * Europe/Berlin in prefect.yaml and 0 3 * * * UTC"),
        (NIGHTLY | {"active": False}, NIGHTLY, "0 3 * * * UTC (off) in prefect.yaml"),
        ({"interval": 600}, {"interval": 60}, "every 600 UTC in prefect.yaml and every 0:01:00 UTC on the server"),
        (NIGHTLY | {"slug": "daily"}, NIGHTLY, "0 3 * * * UTC in prefect.yaml"),
    ],
)
def test_a_changed_schedule_is_told_with_its_remedy(work_dir: Path, here: dict, there: dict, words: str) -> None:
    write([here])
    [line] = describe_outdated(deployed(there))
    assert line.startswith("retraining has ") and words in line and line.endswith(": make up takes it over")


def test_schedules_that_were_added_removed_or_never_deployed_are_told(work_dir: Path) -> None:
    weekly = {"cron": "0 4 * * 0", "slug": "weekly"}
    write([NIGHTLY, weekly])
    assert "0 3 * * * UTC, 0 4 * * 0 UTC in prefect.yaml" in describe_outdated(deployed(NIGHTLY))[0]
    write([])
    assert "none in prefect.yaml and 0 3 * * * UTC on the server" in describe_outdated(deployed(NIGHTLY))[0]
    assert describe_outdated([]) == ["retraining is in prefect.yaml but not deployed: make up takes it over"]


@pytest.mark.parametrize("schedule", [NIGHTLY, {"interval": 60}, {"rrule": "FREQ=DAILY;BYHOUR=3"}, {"cron": "@daily"}])
def test_what_is_deployed_or_was_done_in_the_ui_is_no_difference(work_dir: Path, schedule: dict) -> None:
    write([schedule])
    assert describe_outdated(deployed(schedule)) == []
    assert describe_outdated(deployed(schedule, active=False)) == [], "paused"
    assert describe_outdated(deployed(schedule, {"cron": "0 12 * * *"})) == [], "added there"
    write(None)
    assert describe_outdated(deployed(schedule)) == [], "deploying leaves them alone"


def test_the_schedules_of_the_project_are_understood(work_dir: Path) -> None:
    Path("prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    lines = describe_outdated(deployed(NIGHTLY))
    assert len(lines) == 3 and all("is in prefect.yaml but not deployed" in line for line in lines)


@pytest.mark.parametrize("text", ["deployments: [", "deployments: 3", "", "deployments: [{name: landuse}]"])
def test_a_file_that_cannot_be_read_is_told(work_dir: Path, text: str) -> None:
    Path("prefect.yaml").write_text(text)
    assert describe_outdated([]) == ["prefect.yaml cannot be read: make up says why"]


def test_without_the_file_there_is_nothing_to_tell(work_dir: Path) -> None:
    assert describe_outdated(deployed(NIGHTLY)) == []
