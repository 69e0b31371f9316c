"""Serve a model over HTTP, with a page that classifies dropped images."""

import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from landuse.core.errors import LanduseError
from landuse.core.process import raise_open_file_limit
from landuse.ml.pyfunc import ROOT_VARIABLE
from landuse.params import ServeParams
from landuse.registry import resolve
from landuse.serve.app import build_app
from landuse.serve.metrics import Metrics
from landuse.serve.model import load
from landuse.serve.prediction_log import PredictionLog
from landuse.serve.predictor import Predictor
from landuse.serve.reloader import Reloader
from landuse.serve.server import build_server

M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
MMAP_THRESHOLD_BYTES = 1024 * 1024
SWITCH_INTERVAL_SECONDS = 1e-4  # between threads; at the default of 5 ms, a reply waits for other requests' images


def serve(params: ServeParams, model: str, int8: bool, host: str, port: int) -> None:
    """Serve a model until the process is told to stop; an alias is followed to each new version.

    Raises LanduseError if the model does not exist or the port is taken.
    """
    raise_open_file_limit()  # each connection is a file
    return_large_allocations()
    with bound_socket(host, port) as sock:
        metrics = Metrics()
        log = PredictionLog(Path(params.log), metrics) if params.log else None
        follows = model if resolve.is_alias(model) else None
        predictor = Predictor(load(model, int8), metrics, log, os.environ.get(ROOT_VARIABLE), follows)
        reloader = Reloader(follows, int8, params.follow_seconds, predictor) if follows else None
        workers = [worker for worker in (log, reloader) if worker]
        server = build_server(build_app(predictor, workers, url_of(sock), host))
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        sock.listen()  # only now, so that no client connects before the server can reply
        server.run(sockets=[sock])


def return_large_allocations() -> None:
    """Return the memory of a large image to the system once it is freed: glibc keeps some for every thread."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


@contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Reserve the address before any slow work starts. Raises LanduseError if it is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Explicitly TCP, or asyncio leaves Nagle's algorithm on and every reply waits 40 ms for the client's ACK.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise LanduseError(f"--host {host} --port {port}: {reason}; name another") from None
        yield sock


def url_of(sock: socket.socket) -> str:
    """Return the URL at which a browser reaches a bound socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
