"""Go from a folder of images to a judged model as a user does, and see whether a model of wrong labels is refused.

    python benchmarks/own_images.py UCMerced_LandUse/Images --weights weights.h5 --shuffle beach harbor

In a fresh clone: init, ingest, dvc repro, promote, thresholds --apply, and the first model judged by these limits; then
the images again, with the labels of two classes shuffled. Beside it, the preset of UC Merced on the same images. Exit
code 1 if the first model does not pass its limits, or the second is not refused.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from real_job import environment, fresh_clone, read_metrics, timed, write_params

NAME = "own-images"
REFUSED = 3  # exit code
JUDGE = """
import sys
from landuse import registry, tracking
from landuse.gate import judge
from landuse.params import load_params

params = load_params()
with tracking.store():
    version = registry.get_version(params.register.model, "1")
    sys.exit(judge(version, None, params.promote, params.evaluate, print).verdict != "passed")
"""


def shuffle_labels(source: Path, target: Path, labels: list[str]) -> None:
    """Copy images, and divide those of some classes among these by chance."""
    copytree(source, target)
    paths = sorted(path for label in labels for path in (target / label).iterdir())
    for index, position in enumerate(np.random.default_rng(1).permutation(len(paths))):
        path = paths[index]
        path.rename(target / labels[position % len(labels)] / f"{path.parent.name}-{path.name}")


def to_verdict(clone: Path, *ingest: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Ingest, train and judge; returns the seconds of each, and the content of blessing.json."""
    seconds = {"ingest": timed(clone, "landuse", "ingest", *ingest), "dvc repro": timed(clone, "dvc", "repro")}
    judged = subprocess.run(["landuse", "promote"], cwd=clone, env=environment(clone))
    if judged.returncode not in (0, REFUSED):
        sys.exit("landuse promote could not judge")
    return seconds, json.loads((clone / "artifacts/blessing.json").read_text())


def failures(blessing: dict[str, Any]) -> list[str]:
    """Return the checks that refused a version, in words."""
    failed = (check for check in blessing["checks"] if check["judged"] and not check["passed"])
    return [f"{check['name']}: {check['sentence']}" for check in failed]


def accuracy_of_preset(images: Path, weights: str) -> float:
    """Return the accuracy of the preset of UC Merced on these images."""
    with fresh_clone() as clone:
        write_params(clone, "ucmerced", data={"source": str(images)}, extract={"weights": weights})
        timed(clone, "landuse", "ingest")
        timed(clone, "dvc", "repro", "--quiet", "evaluate")
        return float(read_metrics(clone)["accuracy"])


def main() -> None:
    """Run both, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=lambda text: Path(text).absolute(), help="a folder <class>/<image>")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--shuffle", nargs=2, required=True, metavar="CLASS")
    args = parser.parse_args()
    with fresh_clone() as clone, TemporaryDirectory() as folder:
        init = timed(clone, "landuse", "init", str(args.images), "--name", NAME, "--weights", args.weights)
        seconds, first = to_verdict(clone)
        accuracy = read_metrics(clone)["accuracy"]
        subprocess.run(["landuse", "thresholds", "--apply"], cwd=clone, env=environment(clone), check=True)
        passed = subprocess.run([sys.executable, "-c", JUDGE], cwd=clone, env=environment(clone)).returncode == 0
        shuffle_labels(args.images, Path(folder, "shuffled"), args.shuffle)
        _, second = to_verdict(clone, str(Path(folder, "shuffled")))
    preset = accuracy_of_preset(args.images, args.weights)
    for step, value in {"init": init, **seconds}.items():
        print(f"{step:<22} {value:7.1f} s")
    print(f"{'accuracy':<22} {accuracy:7.1%}   of the preset {preset:.1%}")
    print(f"{'first model':<22} {first['verdict']}, and {'passes' if passed else 'FAILS'} the limits that it led to")
    print(f"{'shuffled labels':<22} {second['verdict']}")
    print(*failures(second), sep="\n")
    if not passed or second["verdict"] != "refused":
        sys.exit(1)


if __name__ == "__main__":
    main()
