"""The tutorial's recipe and this project side by side, in one run: a table, and accuracy against seconds as a picture.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 make bench

`make bench ARGS=--quick` gives the recipe 3 epochs, trains from one seed instead of three, says so, and draws nothing.
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
PICTURE = ROOT / "docs" / "bench.png"
Curve = list[tuple[float, float]]  # seconds, accuracy

FINE_TUNED = {
    "extract": {"image_size": 256},
    "split": {"validation": 0.05, "test": 0.2},
    "train": {"averaged_views": 4, "epochs": 12},
}
UNGROUPED = {"cosine": 1, "hash_distance": 0}


@dataclass
class Recipe:
    """What the recipe did: accuracy after so many seconds, epoch by epoch."""

    curve: Curve

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch, the median; the first one ends later by what is done before it."""
        ends = [seconds for seconds, _ in self.curve]
        return median(later - earlier for earlier, later in zip(ends, ends[1:], strict=False))

    @property
    def seconds(self) -> float:
        """Of all 20 epochs, extrapolated where there were fewer."""
        return self.curve[-1][0] + (EPOCHS - len(self.curve)) * self.epoch_seconds

    def first_at(self, accuracy: float) -> float:
        """When it first was as good."""
        return next(seconds for seconds, reached in self.curve if reached >= accuracy)


@dataclass
class Ours:
    """What this project did, once per seed: from the archive to the evaluated model."""

    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    curve: Curve = field(default_factory=list)


def run_recipe(epochs: int) -> Recipe:
    """The recipe, in a process of its own."""
    source, weights = os.environ["LANDUSE_SOURCE"], os.environ["LANDUSE_WEIGHTS"]
    command = [sys.executable, ROOT / "benchmarks/recipe.py", source, weights, "--epochs", str(epochs)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Recipe([(line["seconds"], line["accuracy"]) for line in map(json.loads, said.splitlines())])


def from_the_archive(clone: Path) -> float:
    """Seconds until the model is evaluated."""
    return timed(clone, "landuse", "ingest") + timed(clone, "dvc", "repro", "--quiet", "evaluate")


def run_head(rounds: int) -> tuple[Ours, dict[str, float]]:
    """The `tutorial` preset, every round in a fresh clone; then one changed parameter, and `landuse tune`."""
    found = Ours()
    for number in range(1, rounds + 1):
        with fresh_clone() as clone:
            write_params(clone, "tutorial")
            found.seconds.append(from_the_archive(clone))
            found.accuracies.append(read_metrics(clone)["accuracy"])
            found.curve = curve(clone, found.seconds[-1])
            if number == rounds:
                timed(clone, "dvc", "repro", "--quiet")
                again = after_a_change(clone, "tutorial", {})
                tune = timed(clone, "landuse", "tune")
    return found, {"again": again, "tune": tune}


def run_fine_tuned(seeds: int) -> tuple[Ours, Ours, float]:
    """The `ucmerced` preset at 80/20 with averaged views, from several seeds: split by groups, and by single images."""
    grouped, single = Ours(), Ours()
    with fresh_clone() as clone:
        for seed in range(1, seeds + 1):
            for found, split in ((grouped, {}), (single, UNGROUPED)):
                changes = seeded(FINE_TUNED, seed, split)
                write_params(clone, "ucmerced", **changes)
                seconds = from_the_archive(clone)
                found.accuracies.append(read_metrics(clone)["accuracy"])
                if not grouped.seconds:
                    grouped.seconds.append(seconds)
                    grouped.curve = [(seconds, found.accuracies[0])]
        timed(clone, "dvc", "repro", "--quiet")
        return grouped, single, after_a_change(clone, "ucmerced", changes)


def seeded(changes: dict[str, Any], seed: int, split: dict[str, Any]) -> dict[str, Any]:
    """The same changes with another seed, and what else is changed of the split."""
    return changes | {
        "split": changes["split"] | split | {"seed": seed},
        "train": changes["train"] | {"seed": seed},
    }


def after_a_change(clone: Path, preset: str, changes: dict[str, Any]) -> float:
    """Seconds of a whole `dvc repro` after one parameter of train was changed."""
    write_params(clone, preset, **changes | {"train": changes.get("train", {}) | {"weight_decay": 0.02}})
    return timed(clone, "dvc", "repro", "--quiet")


def curve(clone: Path, seconds: float) -> Curve:
    """Validation accuracy of every epoch, and when it ended, where the last `dvc repro` ended after so many seconds."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone}/mlflow.db")
    every = client.search_runs([each.experiment_id for each in client.search_experiments()])
    run = next(run for run in every if "validation_accuracy" in run.data.metrics)
    ended = (clone / "dvc.lock").stat().st_mtime
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    return [(seconds + point.timestamp / 1000 - ended, point.value) for point in history]


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Accuracy against seconds."""
    with rc_context(style.STYLE):
        figure = Figure(figsize=(1.4 * style.WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        for (name, points), color in zip(curves.items(), (style.WRONG, style.INK, style.GOOD), strict=True):
            seconds, accuracies = zip(*points, strict=True)
            axes.plot(seconds, [100 * value for value in accuracies], "o-", ms=3, lw=1, color=color, label=name)
        style.tidy(axes, "Accuracy of held-out images (%) against seconds from the archive")
        axes.set_xlim(left=0)
        axes.set_ylim(80, 100)
        axes.legend(loc="lower right")
        style.save(figure, path)


def rows(recipe: Recipe, head: Ours, others: dict[str, float], grouped: Ours, single: Ours, tuned: float) -> list[str]:
    """The table of the README."""
    final, measured = recipe.curve[-1][1], len(recipe.curve)
    extrapolated = "" if measured == EPOCHS else f" (extrapolated from {measured}, the accuracy is theirs)"
    seconds, first = median(head.seconds), recipe.first_at(final)
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
    """Mean and standard deviation over the seeds, in percent."""
    if len(accuracies) == 1:
        return f"{accuracies[0]:.1%} (one seed)"
    each = ", ".join(f"{100 * value:.1f}" for value in accuracies)
    return f"{mean(accuracies):.1%} ± {100 * stdev(accuracies):.1f} ({each})"


def main() -> None:
    """Run both, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if not {"LANDUSE_SOURCE", "LANDUSE_WEIGHTS"} <= set(os.environ):
        sys.exit("LANDUSE_SOURCE and LANDUSE_WEIGHTS must name the archive (JPEG) and a file of MobileNetV2 weights")
    recipe = run_recipe(QUICK_EPOCHS if quick else EPOCHS)
    head, others = run_head(1 if quick else 3)
    grouped, single, tuned = run_fine_tuned(1 if quick else 3)
    print(f"{os.cpu_count()} cores of {processor()}, Python {platform.python_version()}")
    print("\n".join(rows(recipe, head, others, grouped, single, tuned)))
    if not quick:
        draw({"recipe": recipe.curve, "head": head.curve, "fine-tuned": grouped.curve}, PICTURE)


if __name__ == "__main__":
    main()
