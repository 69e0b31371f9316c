"""Follow an alias: what it comes to mean is loaded beside the model at work, and then takes its place."""

import sys
from threading import Event, Thread

from landuse.core.errors import one_line
from landuse.registry import resolve
from landuse.serve.model import load
from landuse.serve.predictor import Answers

PATIENCE = 6


class Follower:
    """Looks at the registry every so many seconds, and more rarely while that leads to nothing."""

    def __init__(self, alias: str, int8: bool, seconds: float, answers: Answers) -> None:
        self.alias, self.int8, self.seconds, self.answers = alias, int8, seconds, answers
        self.trouble: str | None = None
        self.ended = Event()
        self.thread = Thread(target=self.run, name="follow", daemon=True)

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self.thread.start()

    def close(self) -> None:
        """Look no more; a look under way is not waited for."""
        self.ended.set()

    def run(self) -> None:
        """Look until the end."""
        while not self.ended.wait(self.seconds * (PATIENCE if self.trouble else 1)):
            self.look()

    def look(self) -> None:
        """Put the version that the alias means now in place. Whatever is wrong with it, the old one goes on."""
        try:
            name, number = resolve.resolve(self.alias)
            version = f"models:/{name}/{number}"
            if resolve.answering(version, self.int8) != self.answers.model.version:
                self.answers.put(load(version, self.int8))
                self.say(f"{self.answers.model.version} answers now")
            self.trouble = None
        except Exception as error:  # what a damaged version or a registry that is down may lead to is not foreseen
            self.complain(one_line(error))
        self.answers.metrics.following.set(self.trouble is None)

    def complain(self, trouble: str) -> None:
        """Say what is wrong, once."""
        if trouble != self.trouble:
            self.say(f"{self.answers.model.version} goes on answering: {trouble}")
        self.trouble = trouble

    def say(self, text: str) -> None:
        """A line of the server's log."""
        print(f"landuse serve: {text}", file=sys.stderr, flush=True)
