"""A small project with real services of its own: Prefect and MLflow servers, a worker and an inbox watcher."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zipfile import ZipFile

from ports import free_port
from waiting import FINAL_STATES, wait_for
from workspace import LENIENT_GATE, NOT_YET, Workspace

from landuse import sample
from landuse.core.auth import authorization_header
from landuse.core.paths import LOGIN

SAVE_WEBHOOK_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
text = {"text": "{{subject}}: {{body}}"}
CustomWebhookNotificationBlock(name="team", url=sys.argv[1], json_data=text).save("team", overwrite=True)
"""
Json = dict[str, Any]


def archive(path: Path, first: int, last: int, classes: tuple[str, ...] = tuple(sample.CLASSES)) -> Path:
    """Write a zip of sample scenes number `first` to `last` - 1 of every class."""
    with ZipFile(path, "w") as file:
        for label in classes:
            for number in range(first, last):
                sample.draw(label, number).save(buffer := BytesIO(), "PNG")
                file.writestr(f"{label}/{label}{number:03}.png", buffer.getvalue())
    return path


@dataclass(frozen=True)
class Fresh:
    """The project, and the environment variables that set its ports and HTTP retries."""

    work: Workspace
    env: dict[str, str]

    def pipelines(self, verb: str) -> str:
        """Return the output of `make up`, `down` or `status`."""
        return self.work.ok(sys.executable, "-m", "pipelines", verb, **self.env)

    def api(self, path: str, body: Json | None = None) -> Any:
        """Call Prefect's API and return its JSON; its SQLite database may be locked for up to a minute."""
        address = f"{self.prefect}/api{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": self.authorization}
        for _ in range(10):
            try:
                with urlopen(Request(address, data, headers), timeout=90) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 503:  # its database is busy
                    raise
                sleep(1)
        raise AssertionError(f"{address} stays busy")

    @property
    def login(self) -> str:
        """Login of both servers, as user:password."""
        return (self.work.folder / LOGIN).read_text().strip()

    @property
    def authorization(self) -> str:
        """Value of the Authorization header."""
        return authorization_header(self.login)

    @property
    def prefect(self) -> str:
        """Base URL of the Prefect server."""
        return f"http://127.0.0.1:{self.env['LANDUSE_PREFECT_PORT']}"

    @property
    def store(self) -> str:
        """Base URL of the MLflow server."""
        return f"http://127.0.0.1:{self.env['LANDUSE_MLFLOW_PORT']}"

    def trigger(self, flow: str, **parameters: Any) -> str:
        """Trigger a run of a deployment; return its ID."""
        deployment = self.api(f"/deployments/name/{flow}/landuse")["id"]
        return self.api(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]

    def wait_until_finished(self, run: str, seconds: float = 900) -> Json:
        """Wait until the run has ended in any state, and return it."""

        def finished() -> Json | None:
            state = self.api(f"/flow_runs/{run}")
            return state if state["state_type"] in FINAL_STATES else None

        return wait_for(finished, seconds)

    def wait_until_completed(self, run: str, seconds: float = 900) -> Json:
        """Wait for the run, check that it completed, and return it."""
        finished = self.wait_until_finished(run, seconds)
        assert finished["state_type"] == "COMPLETED", (finished["name"], finished["state"], self.worker_log()[-3000:])
        return finished

    def runs(self, flow: str) -> list[Json]:
        """Return the runs of a flow that have started, oldest first."""
        query = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        return [run for run in self.api("/flow_runs/filter", query) if run["start_time"]]

    def pending_runs(self) -> list[Json]:
        """Return the runs of any flow that were triggered, not scheduled, and have not started."""
        runs = self.api("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}})
        return [run for run in runs if not run["auto_scheduled"]]

    def artifacts(self, run: str) -> dict[str, list[Json]]:
        """Return the artifacts of a flow run and its subflows, by key or type."""
        tasks = self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        parents = {"parent_task_run_id": {"any_": [task["id"] for task in tasks]}}
        subflows = [subflow["id"] for subflow in self.api("/flow_runs/filter", {"flow_runs": parents})]
        query = {"artifacts": {"flow_run_id": {"any_": [run, *subflows]}}, "limit": 200}
        artifacts: dict[str, list[Json]] = {}
        for artifact in self.api("/artifacts/filter", query):
            artifacts.setdefault(artifact["key"] or artifact["type"], []).append(artifact)
        return artifacts

    def task_states(self, run: str) -> dict[str, str]:
        """Return the final state of each task of a flow run and its subflows."""
        tasks = self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        parents = {"parent_task_run_id": {"any_": [task["id"] for task in tasks]}}
        subflows = [subflow["id"] for subflow in self.api("/flow_runs/filter", {"flow_runs": parents})]
        all_tasks = self.api("/task_runs/filter", {"flow_runs": {"id": {"any_": [run, *subflows]}}})
        return {task["name"]: task["state_name"] for task in all_tasks}

    def worker_log(self) -> str:
        """Return the log of the worker and its flows."""
        return (self.work.folder / ".services" / "worker.log").read_text(errors="replace")

    def wait_for_log(self, text: str, since: int = 0, seconds: float = 900) -> None:
        """Wait until the worker's log contains a text, from character `since` on."""
        wait_for(lambda: text in self.worker_log()[since:], seconds)

    def pid(self, service: str) -> int:
        """Return the PID of a service."""
        return int(json.loads((self.work.folder / ".services" / f"{service}.json").read_text())["process.id"])

    def kill(self, service: str) -> None:
        """Send SIGKILL to a service and its process group."""
        os.killpg(self.pid(service), signal.SIGKILL)

    def drop(self, name: str, archive: Path) -> None:
        """Copy an archive to the inbox under a partial name, then rename it."""
        part = self.work.folder / "inbox" / f"{name}.part"
        part.write_bytes(archive.read_bytes())
        part.rename(part.with_suffix(""))


@contextmanager
def running_project(work: Workspace) -> Iterator[Fresh]:
    """Give a project a lenient gate and short waits, and free ports to run on; run `down` at the end."""
    work.change(lambda params: params["promote"].update(LENIENT_GATE))
    work.change(lambda params: params["pipelines"].update(settle_seconds=1, retry_seconds=[1, 2]))
    work.replace("prefect.yaml", "0 3 * * *", NOT_YET)
    ports = {"LANDUSE_PREFECT_PORT": free_port(), "LANDUSE_MLFLOW_PORT": free_port()}
    fresh = Fresh(work, ports | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
    try:
        yield fresh
    finally:
        fresh.pipelines("down")


@contextmanager
def signed_in(fresh: Fresh) -> Iterator[None]:
    """Give MLflow clients in this process the login of the project's server."""
    user, _, password = fresh.login.partition(":")
    with patch.dict(os.environ, {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}):
        yield


class Receiver(BaseHTTPRequestHandler):
    """Records the bodies of POST requests."""

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Suppress the request log."""


@contextmanager
def receiver() -> Iterator[HTTPServer]:
    """Run an HTTP server whose `received` lists the request bodies."""
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.received = []
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
