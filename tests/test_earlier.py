"""Earlier outputs of a stage, as DVC has them on record."""

import os
from pathlib import Path

import pytest
import yaml

from landuse.project.earlier import FROM_SCRATCH, earlier_outputs

OUTPUT = Path("artifacts/features")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder as the working directory."""
    monkeypatch.chdir(tmp_path)


def record(md5: str, path: str = str(OUTPUT)) -> dict[str, object]:
    """Return what DVC records of a stage."""
    return {"cmd": "landuse extract", "outs": [{"path": "other", "md5": "0"}, {"path": path, "md5": md5}]}


def write_lock(content: object) -> None:
    """Write dvc.lock."""
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": content}))


def write_run(number: int, text: str) -> None:
    """Write DVC's record of a run; of two, the one with the larger number is later."""
    path = Path(".dvc/cache/runs/ab", f"{number}", "run")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, ns=(number, number))


def test_the_version_in_the_lock_comes_first_and_then_the_latest_run() -> None:
    write_lock({"extract": record("lock", f"../{OUTPUT}"), "split": record("splits", "artifacts/splits.csv")})
    for number, md5 in enumerate(["old", "lock", "new", "new"]):
        write_run(number, yaml.safe_dump(record(md5)))
    write_run(9, yaml.safe_dump(record("elsewhere", "artifacts/features.part")))
    assert [*earlier_outputs(OUTPUT)] == ["lock", "new", "old"]


def test_without_records_and_from_scratch_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*earlier_outputs(OUTPUT)] == []
    write_lock({"extract": record("lock")})
    monkeypatch.setenv(FROM_SCRATCH, "1")
    assert [*earlier_outputs(OUTPUT)] == []


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        f"- {OUTPUT}\n",
        f"outs:\n- path: {OUTPUT}\n",
        f"outs: {OUTPUT}\n",
        f"outs:\n- {OUTPUT}\n",
        f"outs: [{{path: {OUTPUT}\n",
        f"\0 {OUTPUT}\n",
    ],
)
def test_damaged_records_are_passed_over(damaged: str) -> None:
    write_run(1, yaml.safe_dump(record("whole")))
    write_run(2, damaged)
    Path("dvc.lock").write_text(damaged)
    assert [*earlier_outputs(OUTPUT)] == ["whole"]


@pytest.mark.parametrize("stages", [None, [], "text", {"extract": None}, {"extract": {"outs": 3}}])
def test_a_damaged_lock_is_passed_over(stages: object) -> None:
    write_lock(stages)
    assert [*earlier_outputs(OUTPUT)] == []
