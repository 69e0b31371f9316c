"""Prefect settings that the user's `.env`, `prefect.toml`, `pyproject.toml` or profile must not override.

Prefect reads these files wherever it starts; an environment variable wins over them, even if empty. Listed are the
settings that decide whether the project's servers and flows find each other and work as designed.
"""

UNSET = (
    *("API_KEY", "SERVER_API_BASE_PATH"),
    *(f"SERVER_DATABASE_{part}" for part in ("HOST", "USER", "NAME", "PASSWORD")),
)
DEFAULTS = {
    "API_ENABLE_HTTP2": "false",
    "API_REQUEST_TIMEOUT": "60",
    "API_TLS_INSECURE_SKIP_VERIFY": "false",
    "CLIENT_CSRF_SUPPORT_ENABLED": "true",
    "CLIENT_MAX_RETRIES": "5",
    "FLOWS_DEFAULT_RETRIES": "0",
    "LOGGING_LEVEL": "INFO",
    "LOGGING_TO_API_ENABLED": "true",
    "PLUGINS_ENABLED": "false",
    "RESULTS_PERSIST_BY_DEFAULT": "false",
    "RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
    "SERVER_API_CSRF_PROTECTION_ENABLED": "false",
    "SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.memory",
    "SERVER_DATABASE_MIGRATE_ON_START": "true",
    "SERVER_DATABASE_TIMEOUT": "10",
    "SERVER_DOCKET_URL": "memory://",
    "SERVER_EPHEMERAL_ENABLED": "true",
    "SERVER_EVENTS_CAUSAL_ORDERING": "prefect.server.events.ordering.memory",
    "SERVER_EVENTS_MESSAGING_BROKER": "prefect.server.utilities.messaging.memory",
    "SERVER_EVENTS_MESSAGING_CACHE": "prefect.server.utilities.messaging.memory",
    **{
        f"SERVER_SERVICES_{name}_ENABLED": "true"
        for name in ("EVENT_PERSISTER", "FOREMAN", "LATE_RUNS", "SCHEDULER", "TASK_RUN_RECORDER", "TRIGGERS")
    },
    "SERVER_UI_ENABLED": "true",
    "SERVER_UI_SERVE_BASE": "/",
    "TASKS_DEFAULT_RETRIES": "0",
    "TASKS_REFRESH_CACHE": "false",
}
SETTINGS = {f"PREFECT_{name}": value for name, value in (dict.fromkeys(UNSET, "") | DEFAULTS).items()}
