"""Serve: a registered model over HTTP, and on a page to drop images on."""

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landuse.core.errors import LanduseError
from landuse.ml.pyfunc import ROOT_VARIABLE
from landuse.params import ServeParams
from landuse.registry import resolve
from landuse.serve.app import build_app
from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.prediction_log import Log
from landuse.serve.predictor import Answers
from landuse.serve.reloader import Follower
from landuse.serve.server import build_server

M_MMAP_THRESHOLD, LARGE_BYTES = -3, 1024 * 1024  # a setting of glibc's malloc.h, and its value
HANDOVER_SECONDS = 1e-4  # between threads; with the usual 5 ms, an answer waits for the images of others


def serve(params: ServeParams, model: str, int8: bool, host: str, port: int) -> None:
    """Answer until the process is told to end; an alias is followed to whatever it comes to mean.

    Raises LanduseError where there is no such model, and where the port is taken.
    """
    allow_connections()
    give_memory_back()
    with listener(host, port) as door:
        metrics = Metrics()
        log = Log(Path(params.log), metrics) if params.log else None
        answers = Answers(load(model, int8), metrics, log, os.environ.get(ROOT_VARIABLE))
        follower = Follower(model, int8, params.follow_seconds, answers) if resolve.follows(model) else None
        helpers = [helper for helper in (log, follower) if helper]
        server = build_server(build_app(answers, helpers, address(door), host))
        sys.setswitchinterval(HANDOVER_SECONDS)
        door.listen()  # from here on who comes waits for the start; before, nobody could be answered
        server.run(sockets=[door])


def allow_connections() -> None:
    """As many open files as the system lets this process have: each connection is one, and 1,024 are usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS calls its limit infinite, and takes it ill
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_memory_back() -> None:
    """Let the system have the memory of a large image as soon as it is done with: glibc keeps some for every thread."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


@contextmanager
def listener(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that holds the address, before anything slow is begun. Raises LanduseError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on, and every answer waits 40 ms for the client's receipt.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise LanduseError(f"--host {host} --port {port}: {reason}; name another") from None
        yield door


def address(door: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = door.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
