"""Where the time goes: of every step, how much is work, and how much is importing libraries.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/startup.py ucmerced --at-most 0.25

A fresh clone, from the archive to the registered model. Every Python process that takes part, DVC's too, has to tell
how long it imported. Exit code 1 where that is a larger share of the whole than asked.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from real_job import STAGES, environment, fresh_clone, write_params

WATCH = """
import atexit, builtins, importlib, os, threading, time
total, inside = 0.0, threading.local()
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
atexit.register(lambda: print(total, file=open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.seconds"), "w")))
"""
COMMANDS = {"ingest": ("landuse", "ingest")} | {
    stage: ("dvc", "repro", "--quiet", "--single-item", stage) for stage in STAGES
}


def measure(clone: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """Wall seconds of a command, and those that imports took in all Python processes it consists of."""
    with TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text(WATCH)
        env = environment(clone)
        env["PYTHONPATH"] = os.pathsep.join((folder, env["PYTHONPATH"]))
        start = perf_counter()
        subprocess.run(command, cwd=clone, env=env, check=True)
        seconds = perf_counter() - start
        return seconds, sum(float(file.read_text()) for file in Path(folder).glob("*.seconds"))


def main() -> None:
    """Run, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--at-most", type=float, default=1.0, metavar="SHARE")
    asked = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, asked.preset)
        found = {step: measure(clone, command) for step, command in COMMANDS.items()}
    found["all"] = tuple(map(sum, zip(*found.values(), strict=True)))
    print("| step | all | imports | work |\n|---|---|---|---|")
    for step, (seconds, imports) in found.items():
        print(f"| {step} | {seconds:.1f} s | {imports:.1f} s, {imports / seconds:.0%} | {seconds - imports:.1f} s |")
    if found["all"][1] > asked.at_most * found["all"][0]:
        sys.exit(f"that is more than {asked.at_most:.0%}")


if __name__ == "__main__":
    main()
