"""Two clones on one registry, at the same moment: one version a model, one champion, whatever their clocks say."""

from pathlib import Path

import pytest
from compose import Machine
from members import make_project, play_round, shared_registry, two_members

from landuse import tracking

pytestmark = pytest.mark.slow


def test_two_clones_that_register_and_promote_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, project = Machine(tmp_path / "server"), tmp_path / "project"
    machine.folder.mkdir()
    project.mkdir()
    monkeypatch.chdir(project)
    make_project(project)
    with shared_registry(machine) as env, two_members(project, tmp_path, env) as members:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with tracking.store():
            for number in range(5):
                play_round(members, number)
