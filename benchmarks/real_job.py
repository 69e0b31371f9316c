"""Run a preset from the archive to the registered model in a fresh clone, and say what it took.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 \\
    python benchmarks/real_job.py tutorial --at-least 0.93

`--seeds 3` splits and trains twice more, from other seeds, and gives the mean. Without the variables, source and
weights are those of the preset. Exit code 1 where the accuracy is lower than asked.
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
    """A clone of the last commit in an empty folder, which is removed in the end."""
    with TemporaryDirectory() as folder:
        clone = Path(folder, "landuse")
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        yield clone


def write_params(clone: Path, preset: str, **changes: dict[str, Any]) -> None:
    """The preset as params.yaml, source and weights from the environment where they are set, its sections changed."""
    params = yaml.safe_load((clone / "presets" / f"{preset}.yaml").read_text())
    for section, key in (("data", "source"), ("extract", "weights")):
        params[section][key] = os.environ.get(f"LANDUSE_{key.upper()}", params[section][key])
    for section, values in changes.items():
        params[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def environment(clone: Path) -> dict[str, str]:
    """The environment in which commands run in the clone, with an MLflow store of its own."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(clone / "src"), "MLFLOW_TRACKING_URI": f"sqlite:///{clone}/mlflow.db"}
    return os.environ | own


def timed(clone: Path, *command: str) -> float:
    """Run a command of the project in the clone; returns wall seconds."""
    start = perf_counter()
    subprocess.run(command, cwd=clone, env=environment(clone), check=True)
    return perf_counter() - start


def read_metrics(clone: Path) -> dict[str, Any]:
    """What evaluate wrote."""
    return json.loads((clone / "artifacts/metrics.json").read_text())


def again_from(clone: Path, preset: str, seed: int) -> dict[str, Any]:
    """Split, train and evaluate from another seed; returns the metrics."""
    write_params(clone, preset, split={"seed": seed}, train={"seed": seed})
    timed(clone, "dvc", "repro", "--quiet", "evaluate")
    return read_metrics(clone)


def main() -> None:
    """Run, print the table, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="ACCURACY")
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, asked.preset)
        seconds = {"ingest": timed(clone, "landuse", "ingest")}
        seconds |= {stage: timed(clone, "dvc", "repro", "--quiet", "--single-item", stage) for stage in STAGES}
        again = timed(clone, "dvc", "repro", "--quiet")
        metrics = read_metrics(clone)
        others = [again_from(clone, asked.preset, seed) for seed in range(2, asked.seeds + 1)]
    for step, value in seconds.items():
        print(f"{step:<22} {value:7.1f} s")
    print(f"{'all':<22} {sum(seconds.values()):7.1f} s")
    print(f"{'dvc repro, no change':<22} {again:7.1f} s")
    print(f"{'peak memory':<22} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:7.0f} MB")
    print(f"{metrics['subset'] + ' accuracy':<22} {metrics['accuracy']:7.4f}   macro F1 {metrics['macro_f1']:.4f}")
    if others:
        accuracies = [each["accuracy"] for each in (metrics, *others)]
        print(f"{'mean of ' + str(len(accuracies)) + ' seeds':<22} {mean(accuracies):7.4f}   {accuracies}")
    if metrics["accuracy"] < asked.at_least:
        sys.exit(f"accuracy {metrics['accuracy']:.4f} is below {asked.at_least}")


if __name__ == "__main__":
    main()
