"""Where the time goes: of every step, how much is work, and how much is starting Python and importing libraries.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/startup.py ucmerced --at-most 0.25

A fresh clone, from the archive to the registered model. Python itself tells how long each import takes (-X importtime),
DVC's and those of the step alike. Exit code 1 where they take a larger share of the whole than asked.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from real_job import STAGES, environment, fresh_clone, write_params

IMPORT = re.compile(r"^import time: +(\d+) \|", re.MULTILINE)  # microseconds of one module, without what it imports
COMMANDS = {"ingest": ("landuse", "ingest")} | {
    stage: ("dvc", "repro", "--quiet", "--single-item", stage) for stage in STAGES
}


def measure(clone: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """Wall seconds of a command, and those of them that imports took, in it and in what it started."""
    env = environment(clone) | {"PYTHONPROFILEIMPORTTIME": "1"}
    start = perf_counter()
    done = subprocess.run(command, cwd=clone, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    seconds = perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n" + "\n".join(x for x in done.stderr.splitlines() if "import" not in x))
    return seconds, sum(map(int, IMPORT.findall(done.stderr))) / 1e6


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
    print("| step | all | start and imports | work |\n|---|---|---|---|")
    for step, (seconds, imports) in found.items():
        print(f"| {step} | {seconds:.1f} s | {imports:.1f} s, {imports / seconds:.0%} | {seconds - imports:.1f} s |")
    if found["all"][1] > asked.at_most * found["all"][0]:
        sys.exit(f"that is more than {asked.at_most:.0%}")


if __name__ == "__main__":
    main()
