"""Training: a lost version is registered again, and an interrupted stage leaves dvc.lock as it was."""

from pathlib import Path

import pytest

from pipelines import training


@pytest.mark.parametrize("registered", [True, False])
def test_only_a_version_that_the_registry_lost_is_registered_again(
    monkeypatch: pytest.MonkeyPatch, registered: bool
) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(training, "run", lambda *command, **_: commands.append(command))
    monkeypatch.setattr(training, "is_registered", lambda _: registered)
    training.ensure_registration.fn(Path())
    assert commands == ([] if registered else [("dvc", "repro", "--single-item", "--force", "register")])


def test_a_stage_that_is_interrupted_leaves_the_lock_file_as_it_was(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_halfway(*_: object, **__: object) -> None:
        Path("dvc.lock").write_text("stages:\n")
        raise KeyboardInterrupt

    complete = "stages:\n  split:\n    cmd: landuse split\n"
    Path("dvc.lock").write_text(complete)
    monkeypatch.setattr(training, "run", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        training.stage.fn("split", Path())
    assert Path("dvc.lock").read_text() == complete


@pytest.mark.parametrize(
    ("line", "outcome"), [("Running stage 'split':", "Completed"), ("Stage 'split' didn't change, skipping", "Cached")]
)
def test_a_stage_that_dvc_skipped_is_shown_as_cached(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch, line: str, outcome: str
) -> None:
    monkeypatch.setattr(training, "run", lambda *_, on_line, **__: on_line(line))
    assert training.stage.fn("split", Path()).name == outcome
