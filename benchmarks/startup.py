"""Where the time goes: of every step, how much is work, and how much is importing libraries.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/startup.py ucmerced --at-most 0.25

A fresh clone, `landuse ingest` and `dvc repro`. Every Python process that takes part, DVC's too, has to tell how long
it took and how long it imported. Exit code 1 where imports are a larger share of the whole than asked.
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

WATCH = """
import atexit, builtins, importlib, json, os, sys, threading, time
begun, total, inside = time.perf_counter(), 0.0, threading.local()
def watched(load):
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
builtins.__import__ = watched(builtins.__import__)
importlib.import_module = watched(importlib.import_module)
def tell():
    told = {"command": sys.argv, "seconds": time.perf_counter() - begun, "imports": total}
    with open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.json"), "w") as file:
        json.dump(told, file)
atexit.register(tell)
"""


@dataclass(frozen=True)
class Took:
    """Wall seconds, and those of them that went to imports."""

    seconds: float
    imports: float

    def __add__(self, other: "Took") -> "Took":
        return Took(self.seconds + other.seconds, self.imports + other.imports)

    def __sub__(self, other: "Took") -> "Took":
        return Took(self.seconds - other.seconds, self.imports - other.imports)


def measure(clone: Path, *command: str) -> tuple[Took, dict[str, Took]]:
    """What a command took with all Python processes it consists of, and each stage among them."""
    with TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(WATCH)
        env = environment(clone)
        env["PYTHONPATH"] = os.pathsep.join((folder, env["PYTHONPATH"]))
        start = perf_counter()
        subprocess.run(command, cwd=clone, env=env, check=True)
        seconds = perf_counter() - start
        told = [json.loads(file.read_text()) for file in Path(folder).glob("*.json")]
    stages = {name: Took(one["seconds"], one["imports"]) for one in told if (name := one["command"][-1]) in STAGES}
    return Took(seconds, sum(one["imports"] for one in told)), stages


def main() -> None:
    """Run, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--at-most", type=float, default=1.0, metavar="SHARE")
    asked = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, asked.preset)
        ingest, _ = measure(clone, "landuse", "ingest")
        repro, stages = measure(clone, "dvc", "repro", "--quiet")
    everything, beside = ingest + repro, reduce(sub, stages.values(), repro)
    found = (
        {"ingest": ingest}
        | {stage: stages[stage] for stage in STAGES if stage in stages}
        | {"dvc": beside, "all": everything}
    )
    print("| step | all | imports | work |\n|---|---|---|---|")
    for step, took in found.items():
        share, work = took.imports / took.seconds, took.seconds - took.imports
        print(f"| {step} | {took.seconds:.1f} s | {took.imports:.1f} s, {share:.0%} | {work:.1f} s |")
    if everything.imports > asked.at_most * everything.seconds:
        sys.exit(f"that is more than {asked.at_most:.0%}")


if __name__ == "__main__":
    main()
