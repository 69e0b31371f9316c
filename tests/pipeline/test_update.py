"""An update costs what is new, and gives what a run from nothing gives; with the real DVC."""

import os
import re
import signal
import subprocess
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from workspace import Workspace, copy_project

from landuse import sample

RESULTS = (
    "artifacts/manifest.parquet", "artifacts/validation.json", "artifacts/splits.csv", "artifacts/predictions.csv",
    "artifacts/model/model.tflite", "artifacts/model/model.keras", "artifacts/history.csv",
)  # fmt: skip
FEATURES = re.compile(r"features of ([\d,]+) different images: ([\d,]+) computed, ([\d,]+) reused")
NEW = 3


@pytest.fixture(scope="module")
def delivery(whole_run: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the whole run without two of these, and with three more."""
    folder = copytree(whole_run.folder / "data", tmp_path_factory.mktemp("delivery") / "images")
    for path in sorted((folder / "beach").iterdir())[:2]:
        path.unlink()
    for number in range(NEW):
        sample.draw("beach", 1000 + number).save(folder / "beach" / f"new-{number}.png")
    return folder


def extracted(output: str) -> tuple[int, int]:
    """Return for how many images a run computed features, and for how many it reused them."""
    found = FEATURES.search(output)
    assert found, output
    return int(found[2]), int(found[3])


def updated(work: Workspace, delivery: Path) -> tuple[int, int]:
    """Ingest the delivery and extract; return for how many images features were computed and reused."""
    work.ok("landuse", "ingest", str(delivery))
    return extracted(work.ok("dvc", "repro", "extract"))


def test_an_update_gives_bit_for_bit_the_model_from_nothing(work: Workspace, delivery: Path, tmp_path: Path) -> None:
    assert updated(work, delivery) == (NEW, 397)
    work.ok("dvc", "repro", "evaluate")
    scratch = copy_project(work, tmp_path / "scratch" / "project")
    rmtree(scratch.folder / "artifacts")
    command = ("dvc", "repro", "--force", "--no-run-cache", "--no-commit", "evaluate")
    assert extracted(scratch.ok(*command, LANDUSE_FROM_SCRATCH="1")) == (400, 0)
    for name in RESULTS:
        assert (work.folder / name).read_bytes() == (scratch.folder / name).read_bytes(), name


def test_what_dvc_holds_grows_by_the_new_rows(work: Workspace, delivery: Path) -> None:
    work.ok("landuse", "ingest", str(delivery))
    before = cache_bytes(work)
    shards = work.folder / "artifacts" / "features"
    row = sum(path.stat().st_size for path in shards.rglob("*.npy")) / 399
    work.ok("dvc", "repro", "extract")
    assert cache_bytes(work) - before < NEW * row + 60_000


def cache_bytes(work: Workspace) -> int:
    """Return the size of the files in DVC's cache."""
    return sum(path.stat().st_size for path in (work.folder / ".dvc/cache/files").rglob("*") if path.is_file())


def test_going_back_to_earlier_params_or_data_computes_nothing(work: Workspace, delivery: Path) -> None:
    work.change(lambda params: params["extract"].update(views=1))
    assert extracted(work.ok("dvc", "repro", "extract")) == (399, 0)
    work.commit()
    work.change(lambda params: params["extract"].update(views=2))
    assert "computed" not in work.ok("dvc", "repro", "extract")
    assert updated(work, delivery) == (NEW, 397)
    work.change(lambda params: params["extract"].update(views=1))
    assert extracted(work.ok("dvc", "repro", "extract")) == (NEW, 397)
    work.ok("git", "checkout", "--quiet", "HEAD~1", "--", ".")
    work.ok("dvc", "checkout", "--quiet", "--force", "data.dvc")
    assert "computed" not in work.ok("dvc", "repro", "extract")


def test_another_machine_computes_only_what_is_new_after_a_pull(
    work: Workspace, delivery: Path, tmp_path: Path
) -> None:
    work.ok("dvc", "remote", "add", "--default", "--force", "shared", str(tmp_path / "remote"))
    work.ok("dvc", "push", "--quiet", "extract", "data.dvc")
    work.commit()
    other = Workspace(tmp_path / "other", tmp_path / "other" / "weights" / work.weights.name)
    subprocess.run(["git", "clone", "--quiet", work.folder, other.folder], check=True)
    other.weights.write_bytes(work.weights.read_bytes())
    other.ok("dvc", "pull", "--quiet", "extract", "data.dvc", "--allow-missing")
    assert updated(other, delivery) == (NEW, 397)


def test_a_copy_for_an_experiment_reuses_what_the_project_has(work: Workspace, delivery: Path) -> None:
    work.ok("landuse", "ingest", str(delivery))
    work.commit()
    run = ("dvc", "exp", "run", "--temp", "--copy-paths", f"weights/{work.weights.name}", "-S", "train.epochs=1")
    assert extracted(work.ok(*run, "extract")) == (NEW, 397)


def test_an_extraction_that_was_killed_goes_on_with_the_next_shard(work: Workspace) -> None:
    work.change(lambda params: params["extract"].update(views=8))
    with subprocess.Popen(
        ["dvc", "repro", "extract"],
        cwd=work.folder,
        env=work.env(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        next(line for line in process.stdout if line.startswith("extract 279/"))
        os.killpg(process.pid, signal.SIGKILL)
    assert extracted(work.ok("dvc", "repro", "extract")) == (399 - 256, 256)
