"""A small project that keeps itself fresh: real Prefect and MLflow servers, a worker and a watcher, all its own."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any
from unittest.mock import patch
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zipfile import ZipFile

from ports import free_port
from workspace import Workspace, small_project

from landuse import sample
from landuse.core.auth import known_by
from landuse.core.paths import LOGIN

SELDOM = "0 3 29 2 *"  # a schedule that is never due, so that nothing runs but what a test asks for
OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
EASY = {
    "images": 1, "accuracy": 0.0, "macro_f1": 0.0, "class_recall": 0.0, "calibration_error": 1.0, "margin": 1.0,
    "significance": 0.0, "class_fall": 1.0, "slice_accuracy": 0.0, "disturbed_fall": 1.0,
    "latency_ms": 10_000,
}  # fmt: skip
BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
text = {"text": "{{subject}}: {{body}}"}
CustomWebhookNotificationBlock(name="team", url=sys.argv[1], json_data=text).save("team", overwrite=True)
"""
Json = dict[str, Any]


def archive(path: Path, first: int, last: int, classes: tuple[str, ...] = tuple(sample.CLASSES)) -> Path:
    """A zip of drawn scenes with numbers from `first` to before `last`, of every class."""
    with ZipFile(path, "w") as file:
        for label in classes:
            for number in range(first, last):
                sample.draw(label, number).save(buffer := BytesIO(), "PNG")
                file.writestr(f"{label}/{label}{number:03}.png", buffer.getvalue())
    return path


@dataclass(frozen=True)
class Fresh:
    """The project, and what its environment says of its servers: where they listen, how soon one is given up."""

    work: Workspace
    env: dict[str, str]

    def pipelines(self, verb: str) -> str:
        """What `make up`, `down` or `status` prints."""
        return self.work.ok(sys.executable, "-m", "pipelines", verb, **self.env)

    def ask(self, path: str, body: Json | None = None) -> Any:
        """An answer of Prefect's API, whose SQLite may be locked for up to a minute."""
        address = f"{self.prefect}/api{path}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": self.authorization}
        for _ in range(10):
            try:
                with urlopen(Request(address, data, headers), timeout=90) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 503:  # its database is busy: asked to try again
                    raise
                sleep(1)
        raise AssertionError(f"{address} stays busy")

    @property
    def login(self) -> str:
        """The user and password of both servers."""
        return (self.work.folder / LOGIN).read_text().strip()

    @property
    def authorization(self) -> str:
        """The header that says so."""
        return known_by(self.login)

    @property
    def prefect(self) -> str:
        """The address of the Prefect server."""
        return f"http://127.0.0.1:{self.env['LANDUSE_PREFECT_PORT']}"

    @property
    def store(self) -> str:
        """The address of the MLflow server."""
        return f"http://127.0.0.1:{self.env['LANDUSE_MLFLOW_PORT']}"

    def trigger(self, flow: str, **parameters: Any) -> str:
        """Ask for a run of a deployment; returns its id."""
        deployment = self.ask(f"/deployments/name/{flow}/landuse")["id"]
        return self.ask(f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]

    def finished(self, run: str, seconds: float = 900) -> Json:
        """The run, once it has ended in whatever state."""
        return wait_for(
            lambda: found if (found := self.ask(f"/flow_runs/{run}"))["state_type"] in OVER else None, seconds
        )

    def completed(self, run: str, seconds: float = 900) -> Json:
        """The run, which must complete."""
        found = self.finished(run, seconds)
        assert found["state_type"] == "COMPLETED", (found["name"], found["state"], self.worker_log()[-3000:])
        return found

    def runs(self, flow: str) -> list[Json]:
        """The runs of a flow that were started, the oldest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_ASC"}
        return [run for run in self.ask("/flow_runs/filter", wanted) if run["start_time"]]

    def waiting(self) -> list[Json]:
        """The runs of whatever flow that were asked for, not by the schedule, and wait for their turn."""
        runs = self.ask("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}})
        return [run for run in runs if not run["auto_scheduled"]]

    def artifacts(self, run: str) -> dict[str, list[Json]]:
        """What the runs of a flow and of the flows within it show, by kind."""
        tasks = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        parents = {"parent_task_run_id": {"any_": [task["id"] for task in tasks]}}
        inner = [found["id"] for found in self.ask("/flow_runs/filter", {"flow_runs": parents})]
        shown = self.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run, *inner]}}, "limit": 200})
        kinds: dict[str, list[Json]] = {}
        for artifact in shown:
            kinds.setdefault(artifact["key"] or artifact["type"], []).append(artifact)
        return kinds

    def states(self, run: str) -> dict[str, str]:
        """The state in which each task of a run, and of the runs within it, ended."""
        tasks = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        parents = {"parent_task_run_id": {"any_": [task["id"] for task in tasks]}}
        inner = [found["id"] for found in self.ask("/flow_runs/filter", {"flow_runs": parents})]
        within = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run, *inner]}}})
        return {task["name"]: task["state_name"] for task in within}

    def worker_log(self) -> str:
        """All that the worker and its flows logged."""
        return (self.work.folder / ".services" / "worker.log").read_text(errors="replace")

    def logged(self, words: str, since: int = 0, seconds: float = 900) -> None:
        """Wait until a flow logs something, after so many characters of the log."""
        wait_for(lambda: words in self.worker_log()[since:], seconds)

    def pid(self, service: str) -> int:
        """The process of a service."""
        return int(json.loads((self.work.folder / ".services" / f"{service}.json").read_text())["process.id"])

    def kill(self, service: str) -> None:
        """kill -9, with all that the service started in its group."""
        os.killpg(self.pid(service), signal.SIGKILL)

    def drop(self, name: str, archive: Path) -> None:
        """Put an archive into the inbox, as a slow copy that is renamed in the end."""
        part = self.work.folder / "inbox" / f"{name}.part"
        part.write_bytes(archive.read_bytes())
        part.rename(part.with_suffix(""))


def wait_for(look: Callable[[], Any], seconds: float) -> Any:
    """The first thing that is something. Fails where there is none in time."""
    end = monotonic() + seconds
    while monotonic() < end:
        if found := look():
            return found
        sleep(0.3)
    raise AssertionError(f"nothing after {seconds} s")


@contextmanager
def kept_fresh(folder: Path) -> Iterator[Fresh]:
    """A project with everything up, and down again in the end. The gate is easy, waits are short."""
    work = small_project(folder)
    work.change(lambda params: params["promote"].update(EASY))
    work.change(lambda params: params["pipelines"].update(settle_seconds=1, retry_seconds=[1, 2]))
    work.replace("prefect.yaml", "0 3 * * *", SELDOM)
    ports = {"LANDUSE_PREFECT_PORT": free_port(), "LANDUSE_MLFLOW_PORT": free_port()}
    fresh = Fresh(work, ports | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
    try:
        yield fresh
    finally:
        fresh.pipelines("down")


@contextmanager
def signed_in(fresh: Fresh) -> Iterator[None]:
    """MLflow's clients in this process know the login of the project's server."""
    user, _, password = fresh.login.partition(":")
    with patch.dict(os.environ, {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}):
        yield


class Receiver(BaseHTTPRequestHandler):
    """Keeps what is posted to it."""

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def receiver() -> Iterator[HTTPServer]:
    """A real HTTP server; `received` holds the bodies."""
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.received = []
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
