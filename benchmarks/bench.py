"""Compare the tutorial's recipe with this project in one run: a table, and a plot of accuracy against seconds.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 make bench

`make bench ARGS=--quick` runs 3 epochs of the recipe and one seed instead of three, marks that, and plots nothing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from real_job import ROOT, fresh_clone, read_metrics, timed, write_params

from landuse.project.lineage import processor
from landuse.report import style

EPOCHS, QUICK_EPOCHS = 20, 3
EPOCH_ACCURACY = "train/validation_accuracy"
PLOT_FILE = ROOT / "docs" / "images" / "bench.png"
Curve = list[tuple[float, float]]  # seconds, accuracy

FINE_TUNED = {
    "extract": {"image_size": 256},
    "split": {"validation": 0.05, "test": 0.2},
    "train": {"tta_views": 4, "epochs": 12},
}
UNGROUPED = {"cosine": 1, "hash_distance": 0}


@dataclass
class Recipe:
    """Result of the recipe: accuracy over time, one point per epoch."""

    curve: Curve

    @property
    def epoch_seconds(self) -> float:
        """Median of the epochs; the first is left out, since it includes startup."""
        ends = [seconds for seconds, _ in self.curve]
        return median(later - earlier for earlier, later in zip(ends, ends[1:], strict=False))

    @property
    def seconds(self) -> float:
        """Of all 20 epochs, extrapolated if fewer were run."""
        return self.curve[-1][0] + (EPOCHS - len(self.curve)) * self.epoch_seconds

    def seconds_to(self, accuracy: float) -> float:
        """Return the time at which an accuracy was first reached."""
        return next(seconds for seconds, reached in self.curve if reached >= accuracy)


@dataclass
class Timings:
    """Results of this project, one per seed: from the archive to the evaluated model."""

    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    curve: Curve = field(default_factory=list)


def run_recipe(epochs: int) -> Recipe:
    """Run the recipe in a subprocess."""
    source, weights = os.environ["LANDUSE_SOURCE"], os.environ["LANDUSE_WEIGHTS"]
    command = [sys.executable, ROOT / "benchmarks/recipe.py", source, weights, "--epochs", str(epochs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Recipe([(line["seconds"], line["accuracy"]) for line in map(json.loads, output.splitlines())])


def ingest_to_evaluate(clone: Path) -> float:
    """Return the seconds from the archive to the evaluated model."""
    return timed(clone, "landuse", "ingest") + timed(clone, "dvc", "repro", "--quiet", "evaluate")


def run_head(rounds: int) -> tuple[Timings, dict[str, float]]:
    """Run the `tutorial` preset, each round in a fresh clone; then time one changed parameter, and `landuse tune`."""
    head = Timings()
    for number in range(1, rounds + 1):
        with fresh_clone() as clone:
            write_params(clone, "tutorial")
            head.seconds.append(ingest_to_evaluate(clone))
            head.accuracies.append(read_metrics(clone)["accuracy"])
            head.curve = read_curve(clone, head.seconds[-1])
            if number == rounds:
                timed(clone, "dvc", "repro", "--quiet")
                again = time_changed_parameter(clone, "tutorial", {})
                tune = timed(clone, "landuse", "tune")
    return head, {"again": again, "tune": tune}


def run_fine_tuned(seeds: int) -> tuple[Timings, Timings, float]:
    """Run the `ucmerced` preset at 80/20 with TTA, from several seeds: split by groups, and by single images."""
    grouped, single = Timings(), Timings()
    with fresh_clone() as clone:
        for seed in range(1, seeds + 1):
            for result, split in ((grouped, {}), (single, UNGROUPED)):
                changes = with_seed(FINE_TUNED, seed, split)
                write_params(clone, "ucmerced", **changes)
                seconds = ingest_to_evaluate(clone)
                result.accuracies.append(read_metrics(clone)["accuracy"])
                if not grouped.seconds:
                    grouped.seconds.append(seconds)
                    grouped.curve = [(seconds, result.accuracies[0])]
        timed(clone, "dvc", "repro", "--quiet")
        return grouped, single, time_changed_parameter(clone, "ucmerced", changes)


def with_seed(changes: dict[str, Any], seed: int, split: dict[str, Any]) -> dict[str, Any]:
    """Return the changes with another seed and further changes to the split."""
    return changes | {
        "split": changes["split"] | split | {"seed": seed},
        "train": changes["train"] | {"seed": seed},
    }


def time_changed_parameter(clone: Path, preset: str, changes: dict[str, Any]) -> float:
    """Return the seconds of a full `dvc repro` after changing one parameter of train."""
    write_params(clone, preset, **changes | {"train": changes.get("train", {}) | {"weight_decay": 0.02}})
    return timed(clone, "dvc", "repro", "--quiet")


def read_curve(clone: Path, seconds: float) -> Curve:
    """Return each epoch's end time and validation accuracy; `seconds` is when the last `dvc repro` ended."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    run = next(run for run in runs if EPOCH_ACCURACY in run.data.metrics)
    ended = (clone / "dvc.lock").stat().st_mtime
    history = client.get_metric_history(run.info.run_id, EPOCH_ACCURACY)
    return [(seconds + point.timestamp / 1000 - ended, point.value) for point in history]


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Plot accuracy against seconds."""
    with rc_context(style.STYLE):
        figure = Figure(figsize=(1.4 * style.WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, points), color in zip(curves.items(), (style.WRONG, style.INK, style.GOOD), strict=True):
            seconds, accuracies = zip(*points, strict=True)
            axes.plot(seconds, [100 * value for value in accuracies], "o-", ms=3, lw=1, color=color, label=name)
        style.format_axes(axes, "Accuracy of held-out images (%) against seconds from the archive")
        axes.set_xlim(left=0)
        axes.set_ylim(80, 100)
        axes.legend(loc="lower right")
        style.save_png(figure, path)


def table(
    recipe: Recipe, head: Timings, others: dict[str, float], grouped: Timings, single: Timings, tuned: float
) -> list[str]:
    """Return the lines of the table of the benchmarks page."""
    final, measured = recipe.curve[-1][1], len(recipe.curve)
    extrapolated = "" if measured == EPOCHS else f" (extrapolated from {measured}, the accuracy is theirs)"
    seconds, first = median(head.seconds), recipe.seconds_to(final)
    sooner = (
        f"{first:.0f} s: {first / seconds:.1f} × ours" if measured == EPOCHS else f"takes all {EPOCHS} epochs to tell"
    )
    return [
        "| what | measured | goal |",
        "|---|---|---|",
        f"| the recipe: an epoch, {EPOCHS} of them, accuracy | {recipe.epoch_seconds:.1f} s, {recipe.seconds:.0f} s"
        f"{extrapolated}, {final:.1%} | |",
        f"| archive → evaluated head (`tutorial`) | {seconds:.1f} s, {head.accuracies[-1]:.1%}: "
        f"1/{recipe.seconds / seconds:.1f} of the recipe | 1/40, {final:.1%} |",
        f"| when the recipe was first as good as in the end | {sooner} | 8 × ours |",
        f"| archive → evaluated, fine-tuned, 256 pixels, 4 averaged views | {grouped.seconds[0]:.0f} s, "
        f"{spread(grouped.accuracies)} | < {recipe.seconds:.0f} s, 98.0 % |",
        f"| the same, split by single images | {spread(single.accuracies)} | |",
        f"| `dvc repro` after one changed parameter, head | {others['again']:.1f} s | < 20 s |",
        f"| `dvc repro` after one changed parameter, fine-tuned | {tuned:.0f} s | < {recipe.seconds / 3:.0f} s |",
        f"| `landuse tune`, 100 trials of a head | {others['tune']:.1f} s | < 90 s |",
    ]


def spread(accuracies: list[float]) -> str:
    """Format mean and standard deviation over the seeds, in percent."""
    if len(accuracies) == 1:
        return f"{accuracies[0]:.1%} (one seed)"
    values = ", ".join(f"{100 * value:.1f}" for value in accuracies)
    return f"{mean(accuracies):.1%} ± {100 * stdev(accuracies):.1f} ({values})"


def main() -> None:
    """Run both, print the table, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if not {"LANDUSE_SOURCE", "LANDUSE_WEIGHTS"} <= set(os.environ):
        sys.exit("LANDUSE_SOURCE and LANDUSE_WEIGHTS must name the archive (JPEG) and a file of MobileNetV2 weights")
    recipe = run_recipe(QUICK_EPOCHS if quick else EPOCHS)
    head, others = run_head(1 if quick else 3)
    grouped, single, tuned = run_fine_tuned(1 if quick else 3)
    print(f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}")
    print("\n".join(table(recipe, head, others, grouped, single, tuned)))
    if not quick:
        plot({"recipe": recipe.curve, "head": head.curve, "fine-tuned": grouped.curve}, PLOT_FILE)


if __name__ == "__main__":
    main()
