"""The end of `make run` is true, and every command that it names can be run."""

import shutil
from pathlib import Path

import gallery
import pytest
import tiny

from landuse import tracking
from landuse.core.errors import Refused
from landuse.core.paths import PARAMS, REPORT
from pipelines.steps.next_steps import next_steps

GOOD, CONFUSED = "1", "2"


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path, smoke_in_process: None) -> None:
    """Give every test its own project and registry, and judge in this process."""


def commands(text: str) -> list[str]:
    """Return the commands that are listed."""
    rows = text.partition("What next:\n")[2].splitlines()
    return [row[2:].partition("  ")[0] for row in rows]


def refused(number: str) -> None:
    with pytest.raises(Refused):
        gallery.promote_version(number)


def test_a_promoted_version_can_be_asked() -> None:
    gallery.promote_version(GOOD)
    text = next_steps()
    assert text.startswith(f"The report: {REPORT.absolute()}\n")
    assert "landuse serve" in commands(text) and "refused" not in text and "--force" not in text


def test_a_first_version_that_is_refused_is_no_champion_to_ask() -> None:
    refused(CONFUSED)
    text = next_steps()
    first = text.splitlines()[0]
    assert first.startswith(
        "gallery version 2 is not the champion, there is no champion yet: 33.3% of 60 held-out images"
    )
    assert "promote.min_accuracy" in first and "more of its checks failed" in first
    assert "landuse serve" not in commands(text), "there is nobody to ask"
    assert "landuse serve --model models:/gallery@challenger" in commands(text)
    assert "after a change of promote.max_calibration_error, promote.min_accuracy" in text


def test_beside_a_champion_both_can_be_asked() -> None:
    gallery.promote_version(GOOD)
    refused(CONFUSED)
    text = next_steps()
    assert "is not the champion, version 1 stays the champion: " in text.splitlines()[0]
    assert {"landuse serve", "landuse serve --model models:/gallery@challenger"} <= {*commands(text)}


def test_edited_params_are_never_overwritten() -> None:
    gallery.promote_version(GOOD)
    (Path("presets")).mkdir()
    shutil.copy(tiny.ROOT / "presets" / "sample.yaml", "presets/sample.yaml")
    assert "cp presets" not in next_steps()
    shutil.copy("presets/sample.yaml", PARAMS)
    assert "cp presets/ucmerced.yaml params.yaml && make run" in commands(next_steps())


def test_nothing_is_to_be_committed_outside_a_repository() -> None:
    with tracking.store():
        gallery.promote_version(GOOD)
    assert not any(command.startswith("git commit") for command in commands(next_steps()))
