"""Load-test `landuse serve` with 8 concurrent clients: startup time, latency, errors, memory.

    python benchmarks/serve_load.py --int8 --ready 6 --median 30 --slowest 120 --memory 500

Run it in a project with data/ and a registered champion; needs wrk (`apt install wrk`). Exit code 1 if a limit is
exceeded.
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
def run_server(*options: str) -> Iterator[tuple[subprocess.Popen, str, float]]:
    """Run a server; yields its process, its address, and the seconds until its first reply."""
    start = perf_counter()
    server = subprocess.Popen(["landuse", "serve", "--port", "0", *options], stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        address = re.search(r"http://([\d.:]+)/", line)[1]
        connection = HTTPConnection(address)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        yield server, address, perf_counter() - start
    finally:
        server.terminate()
        server.wait(30)


def run_load(address: str, script: Path, seconds: int) -> dict[str, float]:
    """Send requests from 8 clients in a closed loop; returns what wrk measured, latencies in milliseconds."""
    command = ["wrk", f"-t{THREADS}", f"-c{CLIENTS}", f"-d{seconds}s", "--timeout", "60s", "-s", script]
    output = subprocess.run([*command, f"http://{address}/invocations"], check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


@contextmanager
def wrk_script(image: bytes) -> Iterator[Path]:
    """Write the wrk script that sends an image and prints the results as JSON."""
    body = json.dumps({"inputs": [base64.b64encode(image).decode()]})
    with TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(SCRIPT % body)
        yield script


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--model", help="instead of the champion")
    parser.add_argument("--int8", action="store_true")
    for limit in ("ready", "median", "slowest", "memory"):
        parser.add_argument(f"--{limit}", type=float, default=float("inf"))
    args = parser.parse_args()
    options = [*(["--model", args.model] if args.model else []), *(["--int8"] if args.int8 else [])]
    image = (DATA / image_paths(DATA)[0]).read_bytes()
    with run_server(*options) as (server, address, ready), wrk_script(image) as script:
        process, memory = psutil.Process(server.pid), {}
        run_load(address, script, WARM_UP)
        memory["before"] = process.memory_info().rss / 1e6
        results = run_load(address, script, args.seconds)
        memory["after"] = process.memory_info().rss / 1e6
    print(
        f"ready after {ready:.1f} s; {results['requests']:,} requests of {CLIENTS} clients, {results['errors']} errors"
    )
    print(
        f"median {results['median']:.1f} ms, 99 of 100 within {results['slowest']:.1f} ms; "
        f"{results['requests'] / results['seconds']:.0f} requests/s"
    )
    print("memory " + ", ".join(f"{when} {size:.0f} MB" for when, size in memory.items()))
    slow = ready > args.ready or results["median"] > args.median or results["slowest"] > args.slowest
    if results["errors"] or slow:
        sys.exit("that is slower than allowed, or had errors")
    if max(memory.values()) > args.memory:
        sys.exit("that is more memory than allowed")


if __name__ == "__main__":
    main()
