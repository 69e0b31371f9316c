"""Time a study of two backbones beside one run of the tutorial preset, in turn, and report the ratio.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=v2.weights.h5 LANDUSE_V1_WEIGHTS=v1.weights.h5 \\
    python benchmarks/study_time.py

Each round begins with fresh clones, without anything cached. Both are timed from the archive on: the run to the
evaluated model, the study to its page. Also compares the counts of depthwise kernels between the rounds.
"""

import argparse
import os
from pathlib import Path
from statistics import median

import pandas as pd
from bench import ingest_to_evaluate
from real_job import fresh_clone, timed, write_params

GOAL = 2.2


def time_tutorial() -> float:
    """Return the seconds of one run of the preset, from the archive to the evaluated model."""
    with fresh_clone() as clone:
        write_params(clone, "tutorial")
        return ingest_to_evaluate(clone)


def time_study() -> tuple[float, pd.DataFrame, int]:
    """Return the seconds of a study of MobileNetV2 and MobileNet, its table, and the bytes of its page."""
    networks = [{"backbone": "mobilenet_v2"}, {"backbone": "mobilenet", "weights": os.environ["LANDUSE_V1_WEIGHTS"]}]
    with fresh_clone() as clone:
        write_params(clone, "tutorial", study={"networks": networks})
        seconds = timed(clone, "landuse", "ingest") + timed(clone, "landuse", "study")
        artifacts = Path(clone, "artifacts")
        return seconds, pd.read_csv(artifacts / "study.csv"), (artifacts / "study.html").stat().st_size


def largest_difference(tables: list[pd.DataFrame]) -> float:
    """Return the largest difference between rounds in a count of kernels, as a share of all kernels."""
    counts = [table.filter(like="kernels").div(table["depthwise_kernels"], axis=0) for table in tables]
    return max(float((first - second).abs().max().max()) for first in counts for second in counts)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    runs, studies = [], []
    for _ in range(parser.parse_args().rounds):
        runs.append(time_tutorial())
        studies.append(time_study())
    seconds, tables, sizes = zip(*studies, strict=True)
    print(tables[0].T.to_string())
    for run, study in zip(runs, seconds, strict=True):
        print(f"tutorial {run:6.1f} s   study {study:6.1f} s   ratio {study / run:.2f}")
    print(f"ratio of the medians {median(seconds) / median(runs):.2f} (goal: {GOAL} at most)")
    print(f"page {max(sizes):,} bytes; counts of kernels differ by {largest_difference(list(tables)):.1g} at most")


if __name__ == "__main__":
    main()
