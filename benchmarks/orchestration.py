"""What Prefect costs: the training flow beside bare `dvc repro`, and a retraining that finds nothing new.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 LANDUSE_PREFECT_PORT=4300 LANDUSE_MLFLOW_PORT=5300 \\
    python benchmarks/orchestration.py

A fresh clone with the tutorial preset, everything up. In each round `train.seed` is changed and `dvc repro` run by
hand, then changed again and the training flow asked for through its deployment: both run train, evaluate and register,
and find the rest unchanged. The flow's seconds go from asking the server until it says that the run completed.
"""

import argparse
import os
import sys
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter

import yaml
from real_job import ROOT, fresh_clone, timed, write_params

SEEDS = count(2)


def change_seed(clone: Path) -> None:
    """A seed that no training had before."""
    path = clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["train"]["seed"] = next(SEEDS)
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def flow_seconds(name: str) -> float:
    """Wall seconds of a run of a deployment, which must complete."""
    from prefect.deployments import run_deployment

    start = perf_counter()
    run = run_deployment(f"{name}/landuse", poll_interval=0.2)
    if not run.state.is_completed():
        sys.exit(f"{run.name}: {run.state.name}, {run.state.message}")
    return perf_counter() - start


def compare(clone: Path, rounds: int) -> dict[str, list[float]]:
    """The seconds of each round, by what was run."""
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
    """Set up, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    sys.path.insert(0, str(ROOT))
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
    for name, each in seconds.items():
        print(f"{name:<22} {median(each):7.1f} s   of {', '.join(f'{one:.1f}' for one in each)}")
    print(f"{'Prefect costs':<22} {median(seconds['training flow']) - median(seconds['dvc repro']):7.1f} s")


if __name__ == "__main__":
    main()
