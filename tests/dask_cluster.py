"""A Dask scheduler and workers as processes of this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ports import free_port
from waiting import wait_for

BIN = Path(sys.executable).parent
TASKS = Path(__file__).parent / "workers"  # has the tasks that tests give to workers
LOOPBACK = "127.0.0.1"
SECONDS = 60


@dataclass
class Workers:
    """A scheduler with workers, each a process below a nanny of its own."""

    folder: Path
    port: str = field(default_factory=free_port)
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        return f"tcp://{LOOPBACK}:{self.port}"

    def log(self) -> str:
        """Return what all processes printed."""
        return (self.folder / "log").read_text("utf-8", errors="replace")

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        """Start a process of the cluster in a folder of its own."""
        paths = os.pathsep.join((str(TASKS), os.environ.get("PYTHONPATH", "")))
        quick = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}  # to notice that a worker is gone
        variables = os.environ | {"PYTHONPATH": paths, "TMPDIR": str(self.folder)} | quick | env
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=variables, stdout=log, stderr=log, start_new_session=True
            )
        self.started.append(process)
        return process

    def start_scheduler(self) -> subprocess.Popen:
        """Start the scheduler, and wait until it listens."""
        listens = self.log().count("Scheduler at:") if self.started else 0
        dashboard = f"--dashboard-address={LOOPBACK}:0"
        process = self.start(str(BIN / "dask"), "scheduler", "--host", LOOPBACK, "--port", self.port, dashboard)
        wait_for(lambda: self.log().count("Scheduler at:") > listens, SECONDS)
        return process

    def start_worker(self, **env: str) -> subprocess.Popen:
        """Start a worker, and wait until the scheduler has it; returns its nanny."""
        registered = self.log().count("Register worker addr")
        process = self.start(str(BIN / "landuse"), "worker", self.address, "--workers", "1", **env)
        wait_for(lambda: self.log().count("Register worker addr") > registered, SECONDS)
        return process

    def end(self) -> None:
        """End all processes and what they started."""
        for process in reversed(self.started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def worker_of(nanny: subprocess.Popen) -> psutil.Process:
    """Return the process of the worker that a nanny watches."""

    def find() -> psutil.Process | None:
        children = psutil.Process(nanny.pid).children(recursive=True)
        return next((child for child in children if "spawn_main" in " ".join(child.cmdline())), None)

    return wait_for(find, SECONDS)


@contextmanager
def running_workers(folder: Path, number: int) -> Iterator[Workers]:
    """Run a scheduler and workers until the context ends."""
    workers = Workers(folder)
    try:
        workers.start_scheduler()
        for _ in range(number):
            workers.start_worker()
        yield workers
    finally:
        workers.end()
