"""Measure how much of each step's time is work and how much is importing libraries.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/startup.py ucmerced --at-most 0.25

Runs `landuse ingest` and `dvc repro` in a fresh clone. Every Python process involved, DVC's included, records its total
and its import time. Exit code 1 if imports are a larger share of the whole than `--at-most`.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import reduce
from operator import sub
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from real_job import STAGES, environment, fresh_clone, write_params

TIME_IMPORTS = """
import atexit, builtins, importlib, json, os, sys, threading, time
started, total, inside = time.perf_counter(), 0.0, threading.local()
def time_calls(load):
    def timed(*args, **options):
        global total
        if getattr(inside, "importing", False):
            return load(*args, **options)
        inside.importing, start = True, time.perf_counter()
        try:
            return load(*args, **options)
        finally:
            inside.importing = False
            total += time.perf_counter() - start
    return timed
builtins.__import__ = time_calls(builtins.__import__)
importlib.import_module = time_calls(importlib.import_module)
def write_record():
    record = {"command": sys.argv, "seconds": time.perf_counter() - started, "imports": total}
    with open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.json"), "w") as file:
        json.dump(record, file)
atexit.register(write_record)
"""


@dataclass(frozen=True)
class Duration:
    """Wall seconds, and how many of them were spent on imports."""

    seconds: float
    imports: float

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.seconds + other.seconds, self.imports + other.imports)

    def __sub__(self, other: "Duration") -> "Duration":
        return Duration(self.seconds - other.seconds, self.imports - other.imports)


def measure(clone: Path, *command: str) -> tuple[Duration, dict[str, Duration]]:
    """Return the duration of a command with all its Python processes, and of each stage among them."""
    with TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(TIME_IMPORTS)
        env = environment(clone)
        env["PYTHONPATH"] = os.pathsep.join((folder, env["PYTHONPATH"]))
        start = perf_counter()
        subprocess.run(command, cwd=clone, env=env, check=True)
        seconds = perf_counter() - start
        records = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
    stages = {
        name: Duration(record["seconds"], record["imports"])
        for record in records
        if (name := record["command"][-1]) in STAGES
    }
    return Duration(seconds, sum(record["imports"] for record in records)), stages


def main() -> None:
    """Run, print the table, and check the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--at-most", type=float, default=1.0, metavar="SHARE")
    args = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, args.preset)
        ingest, _ = measure(clone, "landuse", "ingest")
        repro, stages = measure(clone, "dvc", "repro", "--quiet")
    total, dvc = ingest + repro, reduce(sub, stages.values(), repro)
    durations = (
        {"ingest": ingest} | {stage: stages[stage] for stage in STAGES if stage in stages} | {"dvc": dvc, "all": total}
    )
    print("| step | all | imports | work |\n|---|---|---|---|")
    for step, duration in durations.items():
        share, work = duration.imports / duration.seconds, duration.seconds - duration.imports
        print(f"| {step} | {duration.seconds:.1f} s | {duration.imports:.1f} s, {share:.0%} | {work:.1f} s |")
    if total.imports > args.at_most * total.seconds:
        sys.exit(f"that is more than {args.at_most:.0%}")


if __name__ == "__main__":
    main()
