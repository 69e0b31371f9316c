"""Time a search of 100 trials by one process and by two, each on a core of its own, on PostgreSQL.

    PGPASSWORD=… python benchmarks/parallel_search.py postgresql://user@host/database

On the sample, in a fresh clone. The database must be empty. Exit code 1 if two processes take more than 0.65 of the
time of one, or if a trial is lost, doubled or one too many.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState
from real_job import environment, fresh_clone, timed, write_params

MOST_TIME = 0.65


def search(clone: Path, cores: Sequence[int]) -> float:
    """Search with one process on each of these cores; return seconds."""
    start = perf_counter()
    processes = [
        subprocess.Popen(["taskset", "--cpu-list", str(core), "landuse", "tune"], cwd=clone, env=environment(clone))
        for core in cores
    ]
    if any([process.wait() for process in processes]):
        sys.exit("a search failed")
    return perf_counter() - start


def take_results(clone: Path, storage: str, trials: int) -> str:
    """Check that each trial ended once and has one run, remove the search, and describe how its trials ended."""
    [name] = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    states = [trial.state for trial in study.trials]
    ended = [trial.number for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    experiment = client.get_experiment_by_name("landuse").experiment_id
    parents = [f"tags.`mlflow.parentRunId` = '{run}'" for run in study.user_attrs["runs"]]
    runs = [run.info.run_name for parent in parents for run in client.search_runs([experiment], parent)]
    if len(ended) != trials or sorted(runs) != [f"trial-{number:03}" for number in ended]:
        sys.exit(f"{len(ended)} trials ended, and {len(runs)} have runs: {trials} were wanted")
    optuna.delete_study(study_name=name, storage=storage)
    return ", ".join(f"{states.count(state)} {state.name.lower()}" for state in sorted(set(states)))


def main() -> None:
    """Search with one process and with two, print, and check the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("storage", help="the address of an empty database")
    parser.add_argument("--trials", type=int, default=100)
    args = parser.parse_args()
    cores, seconds = sorted(os.sched_getaffinity(0))[:2], []
    with fresh_clone() as clone:
        write_params(clone, "sample", tune={"storage": args.storage, "trials": args.trials})
        timed(clone, "landuse", "ingest")
        timed(clone, "dvc", "repro", "--quiet", "split")
        for used in (cores[:1], cores):
            seconds.append(search(clone, used))
            print(f"{len(used)} × landuse tune {seconds[-1]:7.1f} s   {take_results(clone, args.storage, args.trials)}")
    print(f"two take {seconds[1] / seconds[0]:.2f} of the time of one (goal: {MOST_TIME} at most)")
    if seconds[1] > MOST_TIME * seconds[0]:
        sys.exit("two take longer than they may")


if __name__ == "__main__":
    main()
