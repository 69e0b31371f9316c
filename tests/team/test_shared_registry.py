"""Two clones on one registry, at the same moment: one version a model, one champion, whatever their clocks say."""

from pathlib import Path

import pytest
from members import members_at_work, play_round

pytestmark = pytest.mark.slow


def test_two_clones_that_register_and_promote_at_once_agree(tmp_path: Path) -> None:
    with members_at_work(tmp_path) as members:
        for number in range(5):
            play_round(members, number)
