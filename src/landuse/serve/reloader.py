"""Reload the model when its alias moves: load the new version beside the served one, then swap them."""

import sys
from threading import Event, Thread

from landuse.core.errors import one_line
from landuse.registry import resolve
from landuse.serve.model import load
from landuse.serve.predictor import Predictor

BACKOFF = 6


class Reloader:
    """Polls the registry every `seconds`, and less often while that fails."""

    def __init__(self, alias: str, int8: bool, seconds: float, predictor: Predictor) -> None:
        self.alias, self.int8, self.seconds, self.predictor = alias, int8, seconds, predictor
        self.failure: str | None = None
        self.closed = Event()
        self.thread = Thread(target=self.run, name="reloader", daemon=True)

    def start(self) -> None:
        """Start polling in a background thread."""
        self.thread.start()

    def close(self) -> None:
        """Stop polling, without waiting for a reload in progress."""
        self.closed.set()

    def run(self) -> None:
        """Poll until closed."""
        while not self.closed.wait(self.seconds * (BACKOFF if self.failure else 1)):
            self.reload()

    def reload(self) -> None:
        """Serve the version that the alias points to; if that fails, keep serving the old one."""
        try:
            name, number = resolve.resolve(self.alias)
            version = f"models:/{name}/{number}"
            if resolve.display_name(version, self.int8) != self.predictor.model.version:
                self.predictor.use(load(version, self.int8))
                self.log(f"{self.predictor.model.version} answers now")
            self.failure = None
        except Exception as error:  # a damaged version or an unreachable registry can raise anything
            self.report_failure(one_line(error))
        self.predictor.metrics.following.set(self.failure is None)

    def report_failure(self, failure: str) -> None:
        """Log a failure, once while it lasts."""
        if failure != self.failure:
            self.log(f"{self.predictor.model.version} goes on answering: {failure}")
        self.failure = failure

    def log(self, message: str) -> None:
        """Write a line to the server's log."""
        print(f"landuse serve: {message}", file=sys.stderr, flush=True)
