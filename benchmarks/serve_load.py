"""How `landuse serve` bears 8 clients at once: time to ready, latency, errors, memory.

    python benchmarks/serve_load.py --ready 6 --median 30 --slowest 120 --memory 500

Run it in a project with data/ and a registered champion. Exit code 1 where it is slower or larger than asked.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from time import perf_counter

import numpy as np
import psutil

from landuse.dataset import image_paths
from landuse.paths import DATA

CLIENTS = 8
PARTS = ("start", "middle", "end")


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen, str, float]]:
    """A server of its own: its process, its address, and the seconds until it answered."""
    start = perf_counter()
    server = subprocess.Popen(["landuse", "serve", "--port", "0", *options], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        place = re.search(r"http://([\d.:]+)/", line)[1]
        connection = HTTPConnection(place)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        yield server, place, perf_counter() - start
    finally:
        server.terminate()
        server.wait(30)


def ask(place: str, body: bytes, requests: int) -> list[tuple[float, int]]:
    """One client: so many requests one after the other; returns milliseconds and status of each."""
    connection, answers = HTTPConnection(place), []
    for _ in range(requests):
        start = perf_counter()
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        answers.append(((perf_counter() - start) * 1000, answer.status))
    return answers


def load(place: str, body: bytes, requests: int) -> list[tuple[float, int]]:
    """All clients at once."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        each = [pool.submit(ask, place, body, requests // CLIENTS) for _ in range(CLIENTS)]
        return [answer for client in each for answer in client.result()]


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", help="in place of the champion")
    for goal in ("ready", "median", "slowest", "memory"):
        parser.add_argument(f"--{goal}", type=float, default=float("inf"))
    asked = parser.parse_args()
    image = base64.b64encode((DATA / image_paths(DATA)[0]).read_bytes()).decode()
    body = json.dumps({"inputs": [image]}).encode()
    with running(*(["--model", asked.model] if asked.model else [])) as (server, place, ready):
        process, answers, memory = psutil.Process(server.pid), [], {}
        load(place, body, CLIENTS * 10)
        for part in PARTS:
            memory[part] = process.memory_info().rss / 1e6
            answers += load(place, body, asked.requests // 2) if part != "end" else []
    times, statuses = np.array(answers).T
    median, slow = np.percentile(times, [50, 99])
    errors = int((statuses != 200).sum())
    print(f"ready after {ready:.1f} s; {len(times):,} requests of {CLIENTS} clients, {errors} errors")
    print(f"median {median:.0f} ms, 99 of 100 within {slow:.0f} ms; {1000 * CLIENTS / times.mean():.0f} requests/s")
    print("memory " + ", ".join(f"{part} {size:.0f} MB" for part, size in memory.items()))
    if errors or ready > asked.ready or median > asked.median or slow > asked.slowest:
        sys.exit("that is worse than asked for")
    if max(memory.values()) > asked.memory:
        sys.exit("that is more memory than asked for")


if __name__ == "__main__":
    main()
