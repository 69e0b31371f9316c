"""Prefect uses the settings of the project only, and never writes to the database of the user."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANDUSE = Path(sys.executable).with_name("landuse")
PRINT_SETTINGS = """
import json, os
from landuse.core.environment import sanitize_environment
sanitize_environment()
from pipelines.services import processes, settings
os.environ.update(processes.environment())
from prefect.settings import get_current_settings
print(json.dumps(get_current_settings().to_environment_variables()))
"""
HOSTILE = {
    "PREFECT_API_URL": "http://127.0.0.1:4999/api",
    "PREFECT_API_KEY": "pnu_1",
    "PREFECT_HOME": "/nowhere",
    "PREFECT_PROFILES_PATH": "/nowhere/profiles.toml",
    "PREFECT_PROFILE": "mine",
    "PREFECT_SERVER_API_BASE_PATH": "/elsewhere",
    "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///{folder}/user.db",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///{folder}/user.db",
    "PREFECT_SERVER_DATABASE_HOST": "db.example",
    "PREFECT_SERVER_DATABASE_USER": "me",
    "PREFECT_SERVER_DATABASE_NAME": "{folder}/user.db",
    "PREFECT_API_DATABASE_PASSWORD": "secret",
    "PREFECT_API_SSL_CERT_FILE": "/nowhere",
    "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Authorization": "Bearer x"}',
    "PREFECT_CLOUD_API_URL": "http://127.0.0.1",
    "PREFECT_UI_URL": "http://127.0.0.1:4999",
    "PREFECT_SERVER_API_HOST": "0.0.0.0",
    "PREFECT_SERVER_API_PORT": "4999",
    "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
    "PREFECT_SERVER_DATABASE_PORT": "5433",
    "PREFECT_SERVER_MEMO_STORE_PATH": "/nowhere/memo.toml",
    "PREFECT_LOCAL_STORAGE_PATH": "/nowhere/storage",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_MESSAGING_BROKER": "prefect_redis.messaging",
    "PREFECT_TASKS_REFRESH_CACHE": "true",
    "PREFECT_TASKS_DEFAULT_RETRIES": "3",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
}
SECTIONS = {
    "PREFECT_API": '{"url": "http://127.0.0.1:4999/api", "auth_string": "me:secret", "key": "pnu_1"}',
    "PREFECT_CLIENT": '{"custom_headers": {"Authorization": "Bearer x"}}',
    "PREFECT_CLOUD": '{"api_url": "http://127.0.0.1"}',
    "PREFECT_SERVER": '{"api": {"auth_string": "me:secret"}, "database": {"name": "{folder}/user.db"}}',
    "PREFECT_SERVER_API": '{"port": 4999, "base_path": "/elsewhere"}',
    "PREFECT_SERVER_DATABASE": '{"connection_url": "sqlite+aiosqlite:///{folder}/user.db"}',
    "PREFECT_TASKS": '{"default_retries": 3}',
}
PREFECT_TOML = """
home = "/nowhere"
ui_url = "http://127.0.0.1:4999"
[client.custom_headers]
Authorization = "Bearer x"
[cloud]
api_url = "http://127.0.0.1"
[api]
url = "http://127.0.0.1:4999/api"
key = "pnu_1"
[server.api]
base_path = "/elsewhere"
host = "0.0.0.0"
csrf_protection_enabled = true
[server.database]
driver = "postgresql+asyncpg"
port = 5433
connection_url = "sqlite+aiosqlite:///{folder}/user.db"
name = "{folder}/user.db"
[server.ephemeral]
enabled = false
[tasks]
refresh_cache = true
"""


def hostile(folder: Path) -> dict[str, str]:
    return {name: value.replace("{folder}", str(folder)) for name, value in (HOSTILE | SECTIONS).items()}


def write(folder: Path, kind: str) -> dict[str, str]:
    """Write the hostile settings to a file of this kind; return environment variables for the shell."""
    variables, toml = hostile(folder), PREFECT_TOML.replace("{folder}", str(folder))
    if kind == ".env":
        (folder / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
    if kind == "prefect.toml":
        (folder / "prefect.toml").write_text(toml)
    if kind == "pyproject.toml":
        (folder / "pyproject.toml").write_text(f"[tool.prefect]\n{toml}".replace("\n[", "\n[tool.prefect."))
    if kind == "profiles.toml":
        (folder / ".prefect").mkdir()
        rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in variables.items())
        (folder / ".prefect" / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\n{rows}')
    return variables if kind == "the shell" else {}


def settings(folder: Path, **more: str) -> dict[str, str]:
    """Return the settings that Prefect uses in a program of ours in this folder, which is also the user's home."""
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "HOME": str(folder)} | more
    command = [sys.executable, "-c", PRINT_SETTINGS]
    return json.loads(subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("kind", ["the shell", ".env", "prefect.toml", "pyproject.toml", "profiles.toml"])
def test_no_configuration_of_the_user_changes_the_settings_of_prefect(kind: str, tmp_path: Path) -> None:
    expected = settings(tmp_path)
    actual = settings(tmp_path, **write(tmp_path, kind))
    unset = {name for name, value in actual.items() if not value and name not in expected}
    assert {name: value for name, value in actual.items() if name not in unset} == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["the shell", ".env", "prefect.toml"])
def test_a_flow_without_a_server_leaves_the_database_of_the_user_alone(kind: str, project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    env = os.environ | {"HOME": str(project)} | write(project, kind)
    command = [LANDUSE, "flow", "ingestion", "source=nowhere.zip"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "landuse: nowhere.zip: there is no such file or folder" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr and "Service 'EventsWorker' failed" not in done.stderr
    assert not (project / "user.db").exists() and (project / ".services" / "prefect" / "prefect.db").exists()


@pytest.mark.slow
def test_a_flow_works_behind_a_proxy_that_prefect_cannot_use(project: Path) -> None:
    (project / "pipelines").symlink_to(ROOT / "pipelines")
    more = {"ALL_PROXY": "socks5://127.0.0.1:1", "NO_PROXY": "[::1]", "SSL_CERT_FILE": "/nowhere"}
    command = [LANDUSE, "flow", "ingestion", "source=nowhere.zip"]
    done = subprocess.run(command, env=os.environ | more, capture_output=True, text=True)
    assert "there is no such file or folder\n" in done.stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr
