"""Run a preset from the archive to the registered model in a fresh clone, and report seconds, memory and accuracy.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 \\
    python benchmarks/real_job.py tutorial --at-least 0.93

`--seeds 3` splits and trains two more times with other seeds, and reports the mean. Without the variables, source and
weights are those of the preset. Exit code 1 if the accuracy is below `--at-least`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
STAGES = ("validate", "extract", "split", "train", "evaluate", "register")


@contextmanager
def fresh_clone() -> Iterator[Path]:
    """Clone the last commit into a temporary folder."""
    with TemporaryDirectory() as folder:
        clone = Path(folder, "landuse")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        yield clone


def write_params(clone: Path, preset: str, **changes: dict[str, Any]) -> None:
    """Write a preset as params.yaml, with the given changes; the environment may override source and weights."""
    params = yaml.safe_load((clone / "presets" / f"{preset}.yaml").read_text())
    for section, key in (("data", "source"), ("extract", "weights")):
        params[section][key] = os.environ.get(f"LANDUSE_{key.upper()}", params[section][key])
    for section, values in changes.items():
        params[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment(clone: Path) -> dict[str, str]:
    """Return the environment for commands in the clone, with its own MLflow store."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    overrides = {"PATH": path, "PYTHONPATH": str(clone / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db"}
    return os.environ | overrides


def timed(clone: Path, *command: str) -> float:
    """Run a command in the clone; returns wall seconds."""
    start = perf_counter()
    subprocess.run(command, cwd=clone, env=environment(clone), check=True)
    return perf_counter() - start


def read_metrics(clone: Path) -> dict[str, Any]:
    """Return the metrics that evaluate wrote."""
    return json.loads((clone / "artifacts/metrics.json").read_text())


def rerun_with_seed(clone: Path, preset: str, seed: int) -> dict[str, Any]:
    """Split, train and evaluate with another seed; returns the metrics."""
    write_params(clone, preset, split={"seed": seed}, train={"seed": seed})
    timed(clone, "dvc", "repro", "--quiet", "evaluate")
    return read_metrics(clone)


def main() -> None:
    """Run, print the table, and check the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="ACCURACY")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, args.preset)
        seconds = {"ingest": timed(clone, "landuse", "ingest")}
        seconds |= {stage: timed(clone, "dvc", "repro", "--quiet", "--single-item", stage) for stage in STAGES}
        unchanged = timed(clone, "dvc", "repro", "--quiet")
        metrics = read_metrics(clone)
        others = [rerun_with_seed(clone, args.preset, seed) for seed in range(2, args.seeds + 1)]
    for step, value in seconds.items():
        print(f"{step:<22} {value:7.1f} s")
    print(f"{'all':<22} {sum(seconds.values()):7.1f} s")
    print(f"{'dvc repro, no change':<22} {unchanged:7.1f} s")
    print(f"{'peak memory':<22} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:7.0f} MB")
    print(f"{metrics['subset'] + ' accuracy':<22} {metrics['accuracy']:7.4f}   macro F1 {metrics['macro_f1']:.4f}")
    if others:
        accuracies = [result["accuracy"] for result in (metrics, *others)]
        print(f"{'mean of ' + str(len(accuracies)) + ' seeds':<22} {mean(accuracies):7.4f}   {accuracies}")
    if metrics["accuracy"] < args.at_least:
        sys.exit(f"accuracy {metrics['accuracy']:.4f} is below {args.at_least}")


if __name__ == "__main__":
    main()
