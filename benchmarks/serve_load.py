"""How `landuse serve` bears 8 clients at once: time to ready, latency, errors, memory.

    python benchmarks/serve_load.py --int8 --ready 6 --median 30 --slowest 120 --memory 500

Run it in a project with data/ and a registered champion; needs wrk (`apt install wrk`). Exit code 1 where it is slower
or larger than asked.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import psutil

from landuse.core.paths import DATA
from landuse.ml.images import image_paths

CLIENTS, THREADS, WARM_UP = 8, 1, 5
SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [=[%s]=]
done = function(summary, latency)
  local errors, failed = 0, summary.errors
  for _, kind in ipairs({"connect", "read", "write", "status", "timeout"}) do errors = errors + failed[kind] end
  print(string.format('{"requests": %%d, "seconds": %%f, "errors": %%d, "median": %%f, "slowest": %%f}',
    summary.requests, summary.duration / 1e6, errors, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


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


def load(place: str, script: Path, seconds: int) -> dict[str, float]:
    """8 clients at once, as fast as they are answered; what wrk counted, latencies in milliseconds."""
    command = ["wrk", f"-t{THREADS}", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "60s", "-s", script]
    said = subprocess.run([*command, f"http://{place}/invocations"], check=True, capture_output=True, text=True)
    return json.loads(said.stdout.splitlines()[-1])


@contextmanager
def written(image: bytes) -> Iterator[Path]:
    """The script that tells wrk what to send, and how to say what came of it."""
    body = json.dumps({"inputs": [base64.b64encode(image).decode()]})
    with TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(SCRIPT % body)
        yield script


def main() -> None:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--model", help="in place of the champion")
    parser.add_argument("--int8", action="store_true")
    for goal in ("ready", "median", "slowest", "memory"):
        parser.add_argument(f"--{goal}", type=float, default=float("inf"))
    asked = parser.parse_args()
    options = [*(["--model", asked.model] if asked.model else []), *(["--int8"] if asked.int8 else [])]
    image = (DATA / image_paths(DATA)[0]).read_bytes()
    with running(*options) as (server, place, ready), written(image) as script:
        process, memory = psutil.Process(server.pid), {}
        load(place, script, WARM_UP)
        memory["before"] = process.memory_info().rss / 1e6
        found = load(place, script, asked.seconds)
        memory["after"] = process.memory_info().rss / 1e6
    print(f"ready after {ready:.1f} s; {found['requests']:,} requests of {CLIENTS} clients, {found['errors']} errors")
    print(
        f"median {found['median']:.1f} ms, 99 of 100 within {found['slowest']:.1f} ms; "
        f"{found['requests'] / found['seconds']:.0f} requests/s"
    )
    print("memory " + ", ".join(f"{when} {size:.0f} MB" for when, size in memory.items()))
    if found["errors"] or ready > asked.ready or found["median"] > asked.median or found["slowest"] > asked.slowest:
        sys.exit("that is worse than asked for")
    if max(memory.values()) > asked.memory:
        sys.exit("that is more memory than asked for")


if __name__ == "__main__":
    main()
