"""Comparison of the schedules in `prefect.yaml` with those on the server: `make up` takes a change over."""

from pathlib import Path
from typing import Any

import yaml
from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule as parse_schedule  # as `deploy` does
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse

PREFECT_YAML = Path("prefect.yaml")
REMEDY = "make up takes it over"
Config = dict[str, Any]


def describe_outdated(deployed: list[DeploymentResponse]) -> list[str]:
    """Return a line per deployment whose schedules in `prefect.yaml` are not those on the server.

    What a person did in the UI is no difference: a paused schedule, or one added there, which has no slug.
    """
    try:
        configs = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))["deployments"]
        return [line for config in configs if (line := describe_deployment(config, deployed))]
    except OSError:
        return []
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return [f"{PREFECT_YAML} cannot be read: make up says why"]


def describe_deployment(config: Config, deployed: list[DeploymentResponse]) -> str | None:
    """Say how the schedules of a deployment in `prefect.yaml` differ from those on the server; None if they do not."""
    flow = config["entrypoint"].rpartition(":")[2]
    found = [each for each in deployed if (each.entrypoint, each.name) == (config["entrypoint"], config["name"])]
    if not found:
        return f"{flow} is in {PREFECT_YAML} but not deployed: {REMEDY}"
    if config.get("schedules") is None:  # `deploy` leaves those on the server alone
        return None
    wanted, current = config["schedules"], found[0].schedules
    if not differs(wanted, current):
        return None
    there = ", ".join(describe(each.schedule.model_dump()) for each in current) or "none"
    here = ", ".join(describe(each) for each in wanted) or "none"
    return f"{flow} has {here} in {PREFECT_YAML} and {there} on the server: {REMEDY}"


def differs(wanted: list[Config], current: list[DeploymentSchedule]) -> bool:
    """Return whether a wanted schedule is not there, or one with a slug is there that is not wanted."""
    slugs = {config.get("slug") for config in wanted}
    is_left_over = any(schedule.slug and schedule.slug not in slugs for schedule in current)
    return is_left_over or not all(any(is_deployed(config, schedule) for schedule in current) for config in wanted)


def is_deployed(config: Config, schedule: DeploymentSchedule) -> bool:
    """Return whether a schedule on the server is what `prefect.yaml` says."""
    parsed = parse_schedule(config)["schedule"]
    unset = {"anchor_date"} - config.keys()  # an interval without one counts from its deployment
    is_same = parsed.model_dump(exclude=unset) == schedule.schedule.model_dump(exclude=unset)
    is_switched_off = config.get("active") is False and schedule.active
    return is_same and not is_switched_off and (schedule.slug or None) == config.get("slug")


def describe(schedule: Config) -> str:
    """Describe a schedule by its rule and time zone."""
    rule = schedule.get("cron") or schedule.get("rrule") or f"every {schedule.get('interval')}"
    return f"{rule} {schedule.get('timezone') or 'UTC'}" + (" (off)" if schedule.get("active") is False else "")
