"""Servers at work: one in this process, for what is quickly asked, and real ones."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import NamedTuple

from PIL import Image

from landuse.serve import address, listener
from landuse.serve.app import Helper, build_app
from landuse.serve.predictor import Answers
from landuse.serve.server import build_server

JSON = "application/json"


class Reply(NamedTuple):
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict:
        return json.loads(self.body)

    @property
    def version(self) -> str:
        return self.headers["x-model-version"]


def ask(place: str, path: str, body: bytes | None = None, kind: str = JSON) -> Reply:
    """One request to a server: a POST where there is a body."""
    with connected(place) as connection:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())


def connected(place: str) -> AbstractContextManager[HTTPConnection]:
    """A connection to a server, closed in the end."""
    return closing(HTTPConnection(place.removeprefix("http://").rstrip("/"), timeout=60))


def score(place: str, *texts: str) -> Reply:
    """Ask for predictions of images in base64."""
    return ask(place, "/invocations", json.dumps({"inputs": texts}).encode())


def sent(content: bytes | Path) -> str:
    """A file in base64."""
    return base64.b64encode(content.read_bytes() if isinstance(content, Path) else content).decode()


def drawn(kind: str, mode: str = "RGB", size: tuple[int, int] = (256, 256), **options: object) -> bytes:
    """A picture in some format."""
    file = BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind, **options)
    return file.getvalue()


@contextmanager
def in_this_process(answers: Answers, *helpers: Helper) -> Iterator[str]:
    """The app on a free port; yields its address."""
    with listener("127.0.0.1", 0) as door:
        server = build_server(build_app(answers, helpers, address(door)))
        thread = Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield address(door)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def process(*options: str, code: str = "", **variables: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`landuse serve` in a process of its own, after some lines of code; yields it and its address."""
    words = ["landuse", "serve", "--port", "0", *options]
    program = f"{code}\nimport sys; sys.argv = {words!r}\nfrom landuse.cli import main; main()"
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | variables, stdout=pipe, stderr=pipe, text=True
    )
    try:
        line = server.stdout.readline()
        found = re.search(r"http://[\d.:]+/", line)
        assert found, line + server.stderr.read()
        yield server, found[0]
    finally:
        server.terminate()
        server.communicate(timeout=30)


def wait_until(true: object, seconds: float = 30) -> None:
    """Until a function says yes."""
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end, "nothing came of it"
        sleep(0.02)
