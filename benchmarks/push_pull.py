"""Time pushing made-up images and their results to an S3 store, and a second clone that pulls and reproduces them.

    python benchmarks/push_pull.py 33600

The images are those of `many_images.py`; the store is JuiceFS' gateway on this machine, whose files lie on the same
disk. Exit code 1 if the second clone's `dvc repro` runs a stage or changes `dvc.lock`. Needs what the tests need.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "team")]

from compose import Machine  # noqa: E402  # found by the line above
from growth import SMALL_TRAINING  # noqa: E402
from many_images import CHANGES, write_images  # noqa: E402
from real_job import environment, fresh_clone, write_params  # noqa: E402
from stores import BUCKET, s3  # noqa: E402
from workspace import IDENTITY  # noqa: E402

REMOTE = f"s3://{BUCKET}/dvc"
LOCK = "dvc.lock"


def timed(name: str, folder: Path, env: dict[str, str], *command: str) -> str:
    """Run a command in a folder, print its seconds, and return its output."""
    start = perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed")
    print(f"{name:<28} {perf_counter() - start:7.1f} s", flush=True)
    return done.stdout


def share(clone: Path, images: Path, env: dict[str, str]) -> None:
    """Compute all that comes of the images, commit it, and push it."""
    write_params(clone, "sample", **CHANGES, train=SMALL_TRAINING["train"])
    timed("landuse ingest", clone, env, "landuse", "ingest", str(images))
    timed("dvc repro", clone, env, "dvc", "repro", "--quiet")
    for command in (
        ("dvc", "remote", "add", "--quiet", "--force", "--default", "bench", REMOTE),
        ("git", "commit", "--quiet", "--all", "--message=Share the results"),
    ):
        subprocess.run(command, cwd=clone, env=env | IDENTITY, check=True)
    timed("dvc push", clone, env, "dvc", "push", "--quiet")


def reproduce(clone: Path, second: Path, env: dict[str, str]) -> None:
    """Pull what a clone pushed in a clone of it; exit if that leaves something to compute."""
    subprocess.run(["git", "clone", "--quiet", clone, second], check=True)
    timed("dvc pull, second clone", second, env, "dvc", "pull", "--quiet")
    output = timed("dvc repro, second clone", second, env, "dvc", "repro")
    if "Running stage" in output or (second / LOCK).read_bytes() != (clone / LOCK).read_bytes():
        sys.exit(f"the second clone computed something:\n{output}")


def main() -> None:
    """Measure, print, and check that nothing is computed twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=int)
    images = parser.parse_args().images
    with TemporaryDirectory() as folder, fresh_clone() as clone:
        (server := Path(folder, "server")).mkdir()
        machine, many = Machine(server), Path(folder, "many")
        write_images(many, range(images))
        keys = {name: key for name, key in machine.environment("mlflow").items() if name.startswith("AWS_")}
        env = environment(clone) | keys
        with s3(machine):
            share(clone, many, env)
            reproduce(clone, Path(folder, "second"), env)


if __name__ == "__main__":
    main()
