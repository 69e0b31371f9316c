"""Measure what it costs to add 1 % of new images to 16 times the real ones, beside a run from scratch.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/update.py --against v0.1.0

Ingest, validate, extract and split, with the images that `growth.py` makes, and one view unless `--views` says
otherwise. `--against` also runs another commit from scratch. Exit code 1 if the update takes more than a tenth of the
run from scratch, if it gives another split, or if DVC's cache or remote grows by more than 1.5 times the new images
and their activations.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from growth import SMALL_TRAINING, cost, grow
from real_job import environment, fresh_clone, write_params

FACTOR = 16
ONE_IN = 100
MOST_TIME, MOST_GROWTH = 0.1, 1.5

Cost = tuple[float, float]  # seconds, peak memory of any process in MB


@contextmanager
def grown_images() -> Iterator[tuple[Path, Path, Path]]:
    """Yield three folders: all images, those without every hundredth, and these."""
    with TemporaryDirectory() as folder:
        everything, base, new = (Path(folder, name) for name in ("everything", "base", "new"))
        everything.mkdir()
        grow(os.environ["LANDUSE_SOURCE"], everything, FACTOR)
        for number, path in enumerate(sorted(everything.glob("*/*"))):
            target = (base if number % ONE_IN else new) / path.relative_to(everything)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        yield everything, base, new


def prepare(clone: Path, views: int) -> None:
    """Write params for little training, and name a remote beside the clone."""
    write_params(clone, "ucmerced", **SMALL_TRAINING | {"extract": {"views": views}})
    remote = str(clone.with_name("remote"))
    subprocess.run(["dvc", "remote", "add", "--default", "--force", "bench", remote], cwd=clone, check=True)


def run(clone: Path, name: str, *ingest: str) -> Cost:
    """Ingest and split; print and return seconds and memory."""
    parts = [cost(clone, "landuse", "ingest", *ingest), cost(clone, "dvc", "repro", "--quiet", "split")]
    seconds, memory = sum(part[0] for part in parts), max(part[1] for part in parts)
    print(f"{name:<24} {seconds:7.1f} s   (ingest {parts[0][0]:.1f} s)   {memory:6,.0f} MB", flush=True)
    return seconds, memory


def megabytes(folder: Path) -> float:
    """Return the size of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def held(clone: Path) -> dict[str, float]:
    """Return the MB in DVC's cache, and in the remote after a push."""
    subprocess.run(["dvc", "push", "--quiet"], cwd=clone, env=environment(clone), check=True)
    return {"cache": megabytes(clone / ".dvc/cache"), "remote": megabytes(clone.with_name("remote"))}


def check_out(clone: Path, commit: str | None) -> Path:
    """Check out another commit in a clone."""
    if commit:
        subprocess.run(["git", "checkout", "--quiet", commit], cwd=clone, check=True)
    return clone


def from_scratch(images: Path, views: int, commit: str | None = None) -> tuple[Cost, bytes]:
    """Return the cost of a run from scratch, and the split."""
    with fresh_clone() as clone:
        prepare(check_out(clone, commit), views)
        return run(clone, f"from scratch{f', {commit}' if commit else ''}", str(images)), read_split(clone)


def read_split(clone: Path) -> bytes:
    """Return the split."""
    return (clone / "artifacts/splits.csv").read_bytes()


def update(base: Path, new: Path, views: int) -> tuple[Cost, bytes, dict[str, float]]:
    """Return the cost of the update, the split, and how many times what is new DVC's folders grew by."""
    with fresh_clone() as clone:
        prepare(clone, views)
        run(clone, "the images before", str(base))
        before, rows = held(clone), features_megabytes(clone)
        spent = run(clone, "1 % added", "--add", str(new))
        added = megabytes(new) + features_megabytes(clone) - rows
        growth = {place: (size - before[place]) / added for place, size in held(clone).items()}
        print(f"new images and features {added:7.1f} MB; " + describe(growth), flush=True)
        run(clone, "nothing new", "--add", str(new))
        return spent, read_split(clone), growth


def features_megabytes(clone: Path) -> float:
    """Return the size of the arrays in the features."""
    return sum(path.stat().st_size for path in (clone / "artifacts/features").glob("*/*.npy")) / 1e6


def describe(growth: dict[str, float]) -> str:
    """Describe how DVC's folders grew."""
    return ", ".join(f"DVC's {place} grew by {ratio:.2f} times that" for place, ratio in growth.items())


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--against", metavar="COMMIT")
    args = parser.parse_args()
    with grown_images() as (everything, base, new):
        spent, split, growth = update(base, new, args.views)
        scratch, expected = from_scratch(everything, args.views)
        if args.against:
            earlier, _ = from_scratch(everything, args.views, args.against)
            print(f"from scratch, as many times as long as {args.against}: {scratch[0] / earlier[0]:.2f}")
    print(f"the update took {spent[0] / scratch[0]:.3f} of a run from scratch")
    if spent[0] > MOST_TIME * scratch[0] or split != expected or max(growth.values()) > MOST_GROWTH:
        sys.exit("the update costs more than it may, or gives another split")


if __name__ == "__main__":
    main()
