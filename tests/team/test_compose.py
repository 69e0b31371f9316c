"""The files for containers: valid, pinned, closed to other machines, and without anything private."""

import json
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import yaml
from compose import PORTS, ROOT, VARIABLE, example_settings, read_services

COMPOSE = ROOT / "compose.yaml"
DOCKERFILE = ROOT / "Dockerfile"
BIN = Path(sys.executable).parent
SECRET = re.compile("PASSWORD")


def test_the_compose_file_follows_the_schema() -> None:
    if not (checker := BIN / "check-jsonschema").exists():
        pytest.skip("check-jsonschema is not installed: requirements/dev.txt has it")
    command = [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def docker_compose() -> list[str]:
    """Return the command of Docker Compose; skips the test if it is not installed. It needs no daemon for this."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.skip("Docker Compose is not installed")


def test_docker_compose_reads_the_file_with_the_example_settings(tmp_path: Path) -> None:
    lines = [f"{name}={value}" for name, value in example_settings().items()]
    (tmp_path / "env").write_text("\n".join(lines))
    command = [*docker_compose(), "--file", COMPOSE, "--env-file", tmp_path / "env", "config", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"].keys() == read_services(example_settings()).keys()


def test_docker_compose_refuses_to_start_without_passwords(tmp_path: Path) -> None:
    command = [*docker_compose(), "--file", COMPOSE, "--env-file", ROOT / ".env.example", "config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "set it in .env" in done.stderr and done.stdout == ""


def test_the_dockerfile_passes_the_linter() -> None:
    if not (hadolint := BIN / "hadolint").exists():
        pytest.skip("hadolint is not installed: requirements/dev.txt has it for Linux on x86-64")
    done = subprocess.run([hadolint, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout


def test_ports_are_open_to_this_machine_only() -> None:
    services = read_services(example_settings())
    published = {name: port for name, service in services.items() for port in service.get("ports", [])}
    assert published == {name: f"127.0.0.1:{PORTS[name]}:{PORTS[name]}" for name in ("mlflow", "prefect", "serve")}


def test_every_image_has_a_version() -> None:
    built = {"landuse-work", "landuse-serve"}
    images = {service["image"] for service in read_services(example_settings()).values()} - built
    devcontainer = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["image"]
    [base] = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for image in (*images, base, devcontainer):
        assert re.search(r":v?\d+(\.\d+)*(-\S+)?$", image), image


def test_every_service_restarts_and_ours_have_no_privileges() -> None:
    for name, service in read_services(example_settings()).items():
        assert service["restart"] == "unless-stopped"
        if "build" in service:
            assert service["user"] == "1000:1000" and service["cap_drop"] == ["ALL"], name


def test_every_password_is_asked_for_and_none_is_given() -> None:
    text = COMPOSE.read_text("utf-8")
    asked = {name: (mark, default) for name, mark, default in VARIABLE.findall(text)}
    passwords = {name for name in asked if SECRET.search(name)}
    assert {asked[name] for name in passwords} == {("?", "set it in .env")}
    example = dict(line.partition("=")[::2] for line in (ROOT / ".env.example").read_text().splitlines())
    assert passwords == {name for name in example if SECRET.search(name)}
    assert {example[name] for name in passwords} == {""}
    assert asked.keys() <= {name.lstrip("#") for name in example}
    for service in read_services(dict.fromkeys(asked, "planted")).values():
        for name, value in service.get("environment", {}).items():
            assert "planted" in value or not re.search("PASSWORD|SECRET|AUTH_STRING", name), name


def test_git_ignores_the_settings_and_images_hold_only_what_is_named() -> None:
    assert subprocess.run(["git", "check-ignore", "--quiet", ".env"], cwd=ROOT).returncode == 0
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    allowed = {line.removeprefix("!/") for line in rest if line.startswith("!/")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert first == "*" and sources == {
        *allowed - {"requirements/*.txt"},
        "requirements/serve.txt",
        "requirements/team.txt",
    }
    private = {".env", ".git", ".services", "data", "artifacts", "mlflow.db", "mlruns", "inbox", "quarantine", ".dvc"}
    assert not private & {name.partition("/")[0] for name in allowed}


def test_the_images_run_the_commands_of_the_compose_file() -> None:
    commands = dict(re.findall(r"^FROM base AS (\w+)\n(?:.*\n)*?CMD (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE))
    services = read_services(example_settings())
    assert yaml.safe_load(commands["work"]) == services["worker"]["command"]
    assert yaml.safe_load(commands["serve"])[:2] == services["serve"]["command"][:2]
