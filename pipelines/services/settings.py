"""Prefect settings that the user's `.env`, `prefect.toml`, `pyproject.toml` or profile must not override.

Prefect reads these files wherever it starts; an environment variable wins over them, even if empty. Listed are the
settings that decide whether the project's servers and flows find each other and work as designed, by their paths in
`prefect.settings`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

UNSET = (
    *("api.key", "api.ssl_cert_file", "server.api.base_path"),
    *(f"server.database.{part}" for part in ("host", "user", "name", "password")),
)
DEFAULTS = {
    "api.enable_http2": "false",
    "api.request_timeout": "60",
    "api.tls_insecure_skip_verify": "false",
    "client.csrf_support_enabled": "true",
    "client.custom_headers": "{}",  # one of them could replace the login
    "client.max_retries": "5",
    "cloud.api_url": "none",  # a server whose address begins like this one counts as Prefect's cloud
    "deployments.clear_schedules_on_empty": "true",  # `schedules: []` means none
    "flows.default_retries": "0",
    "logging.level": "INFO",
    "logging.to_api.enabled": "true",
    "plugins.enabled": "false",
    "results.persist_by_default": "false",
    "runner.auto_install_dependencies": "false",
    "server.analytics_enabled": "false",
    "server.api.csrf_protection_enabled": "false",
    "server.concurrency.lease_storage": "prefect.server.concurrency.lease_storage.memory",
    "server.database.driver": "sqlite+aiosqlite",
    "server.database.migrate_on_start": "true",
    "server.database.port": "5432",  # unused
    "server.database.timeout": "10",
    "server.docket.url": "memory://",
    "server.ephemeral.enabled": "true",
    "server.events.causal_ordering": "prefect.server.events.ordering.memory",
    "server.events.messaging_broker": "prefect.server.utilities.messaging.memory",
    "server.events.messaging_cache": "prefect.server.utilities.messaging.memory",
    **{
        f"server.services.{name}.enabled": "true"
        for name in ("event_persister", "foreman", "late_runs", "scheduler", "task_run_recorder", "triggers")
    },
    "server.ui.api_url": "/api",  # relative, so that it also works through a tunnel
    "server.ui.enabled": "true",
    "server.ui.serve_base": "/",
    "server.ui.show_promotional_content": "false",
    "server.ui.v2_enabled": "true",
    "server.worker_channel.cleanup_queue_storage": "prefect.server.worker_communication.cleanup_queue.memory",
    "tasks.default_retries": "0",
    "tasks.refresh_cache": "false",
    "worker.query_seconds": "2",
}
SETTINGS = dict.fromkeys(UNSET, "") | DEFAULTS


def project_settings(home: Path, secret: str, address: str, heartbeat_seconds: int) -> dict[str, str]:
    """Return the settings that depend on the project: home, database, login and server."""
    url = urlsplit(address)
    return {
        "home": str(home),
        "profiles_path": f"{home}/profiles.toml",
        "results.local_storage_path": f"{home}/storage",
        "server.memo_store_path": f"{home}/memo_store.toml",
        "server.database.connection_url": f"sqlite+aiosqlite:///{home}/prefect.db",
        "api.auth_string": secret,
        "server.api.auth_string": secret,
        "server.api.cors_allowed_origins": address,
        "server.api.host": str(url.hostname),
        "server.api.port": str(url.port),
        "flows.heartbeat_frequency": str(heartbeat_seconds),
    }


def to_variables(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of these settings: one each, and one in JSON for each section, such as PREFECT_SERVER.

    Prefect merges the JSON of a section with the one in `.env`, and prefers both to the variable of a single setting.
    """
    variables: dict[str, str] = {}
    sections: dict[str, Any] = {}
    for path, value in settings.items():
        variables[variable(path)] = value
        *parents, name = path.split(".")
        section = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return variables | {variable(name): json.dumps(part) for name, part in sections.items() if isinstance(part, dict)}


def variable(path: str) -> str:
    """Return the name of the environment variable of a setting or section."""
    return f"PREFECT_{path.replace('.', '_').upper()}"
