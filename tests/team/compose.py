"""compose.yaml as processes of this machine: the commands and variables of its services, with other hosts and ports."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import yaml
from ports import free_port
from waiting import wait_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"
PORTS = {"postgres": "5432", "s3": "7070", "mlflow": "5000", "prefect": "4200", "serve": "8080"}  # in the containers
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
START_SECONDS = 180


def example_settings() -> dict[str, str]:
    """Return the settings of .env.example, with a password wherever one is to be filled in."""
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value or token_hex(16) for name, _, value in pairs}


def read_services(settings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml with the settings in place. Raises KeyError if it asks for another one."""

    def value(match: re.Match[str]) -> str:
        name, mark, default = match.groups()
        return settings.get(name) or default if mark == "-" else settings[name]

    return yaml.safe_load(VARIABLE.sub(value, (ROOT / "compose.yaml").read_text("utf-8")))["services"]


@dataclass
class Machine:
    """A machine on which services of compose.yaml run as processes, each on a free port, below one folder."""

    folder: Path
    settings: dict[str, str] = field(default_factory=example_settings)
    ports: dict[str, str] = field(default_factory=lambda: {name: free_port() for name in PORTS})

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services of compose.yaml."""
        return read_services(self.settings)

    def local(self, text: str) -> str:
        """Replace the hosts and ports of containers, and their /tmp, with those of this machine."""
        text = (
            text.replace("0.0.0.0", LOOPBACK)
            .replace("/tmp/", f"{self.folder}/")
            .replace("@postgres/", "@postgres:5432/")
        )
        for name, inside in PORTS.items():
            text = re.sub(rf"({name}|{re.escape(LOOPBACK)}):{inside}\b", f"{LOOPBACK}:{self.ports[name]}", text)
            text = text.replace(f"--port={inside}", f"--port={self.ports[name]}")
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables of a service in its container: nothing else of this machine's but where commands are."""
        container = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder), "PGPORT": self.ports["postgres"]}
        return container | {key: self.local(value) for key, value in self.services[name]["environment"].items()}

    def address(self, name: str) -> str:
        """Return the base URL of a server."""
        return f"http://{LOOPBACK}:{self.ports[name]}"

    def log(self, name: str) -> str:
        """Return what a service printed."""
        return (self.folder / f"{name}.log").read_text("utf-8", errors="replace")

    @contextmanager
    def run(self, name: str, cwd: Path, **more: str) -> Iterator[subprocess.Popen]:
        """Run a service by its command until the context ends; yield it once its health check passes."""
        service, env = self.services[name], self.environment(name) | more
        with (self.folder / f"{name}.log").open("a") as log:
            command = [self.local(part) for part in service["command"]]
            process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            if "healthcheck" in service:
                self.wait_until_healthy(name, process, cwd, env)
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def wait_until_healthy(self, name: str, process: subprocess.Popen, cwd: Path, env: Mapping[str, str]) -> None:
        """Wait until the health check of a service passes. Fails with its log if it ends before, or too late."""
        _, *check = map(self.local, self.services[name]["healthcheck"]["test"])

        def is_healthy() -> bool:
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)}"
            return subprocess.run(check, cwd=cwd, env=env, capture_output=True).returncode == 0

        wait_for(is_healthy, START_SECONDS)

    def classify(self, image: Path, folder: Path) -> dict[str, Any]:
        """Serve the champion, without git or a project, from a folder with params; return what it says of an image."""
        body = {"inputs": [base64.b64encode(image.read_bytes()).decode()]}
        with self.run("serve", folder, PATH=str(BIN), HOME="/nonexistent") as server:

            def answer() -> tuple[int, bytes] | None:
                assert server.poll() is None, self.log("serve")
                try:
                    return request(f"{self.address('serve')}/invocations", body)
                except URLError:  # not up yet
                    return None

            status, content = wait_for(answer, START_SECONDS)
        assert status == 200, content
        return json.loads(content)["predictions"][0]


def request(address: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    """Return status and body of the answer to a GET, or to a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(Request(address, data, {"Content-Type": "application/json"} | headers), timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()
