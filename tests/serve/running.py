"""Running servers, in this process or as real ones, and a client for them."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import NamedTuple

from PIL import Image

from landuse.serve import bound_socket, url_of
from landuse.serve.app import Worker, build_app
from landuse.serve.predictor import Predictor
from landuse.serve.server import build_server

JSON = "application/json"


class Reply(NamedTuple):
    """An HTTP reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> dict:
        return json.loads(self.body)

    @property
    def version(self) -> str:
        return self.headers["x-model-version"]


def fetch(url: str, path: str, body: bytes | None = None, content_type: str = JSON) -> Reply:
    """Send one request: a POST if there is a body, else a GET."""
    with open_connection(url) as connection:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return Reply(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())


def open_connection(url: str) -> AbstractContextManager[HTTPConnection]:
    """Return a connection to a server that closes with its context."""
    return closing(HTTPConnection(url.removeprefix("http://").rstrip("/"), timeout=60))


def score(url: str, *texts: str) -> Reply:
    """Request predictions for images in base64."""
    return fetch(url, "/invocations", json.dumps({"inputs": texts}).encode())


def as_base64(content: bytes | Path) -> str:
    """Encode a file."""
    return base64.b64encode(content.read_bytes() if isinstance(content, Path) else content).decode()


def gradient(kind: str, mode: str = "RGB", size: tuple[int, int] = (256, 256), **options: object) -> bytes:
    """Return an image of a gradient, encoded in a format."""
    file = BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind, **options)
    return file.getvalue()


@contextmanager
def serve_in_thread(predictor: Predictor, *workers: Worker) -> Iterator[str]:
    """Serve the app on a free port from a thread of this process; yields its URL."""
    with bound_socket("127.0.0.1", 0) as sock:
        server = build_server(build_app(predictor, workers, url_of(sock)))
        thread = Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield url_of(sock)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def serve_process(*options: str, code: str = "", **variables: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run `landuse serve` in a subprocess, after some lines of code; yields the process and its URL."""
    words = ["landuse", "serve", "--port", "0", *options]
    program = f"{code}\nimport sys; sys.argv = {words!r}\nfrom landuse.cli import main; main()"
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | variables, stdout=pipe, stderr=pipe, text=True
    )
    try:
        line = server.stdout.readline()
        match = re.search(r"http://[\d.:]+/", line)
        assert match, line + server.stderr.read()
        yield server, match[0]
    finally:
        server.terminate()
        server.communicate(timeout=30)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until a condition is true; fail if it takes too long."""
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end, "timed out"
        sleep(0.02)
