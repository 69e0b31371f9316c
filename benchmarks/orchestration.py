"""Measure the overhead of Prefect: the training flow against bare `dvc repro`, and a retraining with nothing new.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 LANDUSE_PREFECT_PORT=4300 LANDUSE_MLFLOW_PORT=5300 \\
    python benchmarks/orchestration.py

Uses a fresh clone with the tutorial preset and all services up. Each round changes `train.seed` and runs `dvc repro`,
then changes it again and runs the training flow through its deployment: both run train, evaluate and register, and skip
the rest. The flow is timed from the request to the server until it reports the run as completed.
"""

import argparse
import os
import sys
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import yaml
from real_job import fresh_clone, timed, write_params

SEEDS = count(2)


def change_seed(clone: Path) -> None:
    """Set a seed that has not been used before."""
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"]["seed"] = next(SEEDS)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def flow_seconds(name: str) -> float:
    """Run a deployment, which must complete; returns wall seconds."""
    from prefect.deployments import run_deployment

    start = perf_counter()
    run = run_deployment(f"{name}/landuse", poll_interval=0.2)
    if not run.state.is_completed():
        sys.exit(f"{run.name}: {run.state.name}, {run.state.message}")
    return perf_counter() - start


def compare(clone: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each round, by what was run."""
    seconds: dict[str, list[float]] = {"dvc repro": [], "training flow": [], "nothing new": []}
    for _ in range(rounds):
        change_seed(clone)
        seconds["dvc repro"].append(timed(clone, "dvc", "repro", "--quiet"))
        change_seed(clone)
        seconds["training flow"].append(flow_seconds("training"))
    print(f"{'retraining, judging':<22} {flow_seconds('retraining'):7.1f} s")
    seconds["nothing new"] += (flow_seconds("retraining") for _ in range(rounds))
    return seconds


def main() -> None:
    """Set up, run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    from pipelines.services import processes

    with fresh_clone() as clone:
        write_params(clone, "tutorial")
        timed(clone, "landuse", "ingest")
        timed(clone, "dvc", "repro", "--quiet")
        os.chdir(clone)
        os.environ.update(processes.environment())
        try:
            timed(clone, "python", "-m", "pipelines", "up")
            seconds = compare(clone, rounds)
        finally:
            timed(clone, "python", "-m", "pipelines", "down")
    for name, values in seconds.items():
        print(f"{name:<22} {median(values):7.1f} s   of {', '.join(f'{value:.1f}' for value in values)}")
    print(f"{'Prefect costs':<22} {median(seconds['training flow']) - median(seconds['dvc repro']):7.1f} s")


if __name__ == "__main__":
    main()
