"""Let two clones use one registry at the same moment, round after round: do versions, aliases and ledger agree?

    python benchmarks/shared_registry.py --rounds 50

Runs MLflow's server as compose.yaml does, on PostgreSQL and an S3 store, and two clones as processes, one with a clock
that is a day ahead. In each round both register the same model (even rounds) or one each (odd rounds), then both make
their version the champion. Registering is the whole stage; promoting is what follows the gate, with the new champion
loaded in the process itself instead of a fresh one. Exits with 1 at the first round after which a model has two
versions, not exactly one promotion won, or aliases and ledger differ. Needs PostgreSQL and what the tests need.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "team")]

from gallery import NAME  # noqa: E402  # found by the line above
from members import members_at_work, play_round  # noqa: E402
from mlflow import MlflowClient  # noqa: E402

from landuse.registry import audit_log  # noqa: E402


def play(folder: Path, rounds: int) -> None:
    """Run the rounds on a fresh registry; print counts and seconds."""
    with members_at_work(folder) as members:
        seconds = [play_round(members, number) for number in range(rounds)]
        versions = MlflowClient().search_model_versions(f"name = '{NAME}'")
        ledger = audit_log.entries(NAME)
    won = sum(entry.status == audit_log.DONE for entry in ledger)
    print(
        f"{rounds} rounds: {len(versions)} versions of as many models, {won} promotions won, {len(ledger) - won} lost"
    )
    for part in ("register", "promote"):
        times = sorted(each[part] for each in seconds)
        print(f"{part:<9} {median(times):5.1f} s of both at once ({times[0]:.1f} to {times[-1]:.1f} s)")


def main() -> None:
    """Run in a temporary folder; exit with 1 if the registry contradicts itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory(prefix="landuse-registry-") as folder:
        try:
            play(Path(folder), rounds)
        except AssertionError as error:
            sys.exit(f"the registry contradicts itself: {error}")


if __name__ == "__main__":
    main()
