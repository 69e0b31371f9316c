"""Promotion: the command that the flow runs, and what its exit code and the verdict mean."""

import pytest

from landuse.core.errors import Refused
from pipelines import promotion
from pipelines.steps.commands import TEMPORARY, CommandFailed


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((None, False, None, False), []),
        (("7", False, None, True), ["7", "--dry-run"]),
        (("7", True, "it must be", False), ["7", "--force", "--reason", "it must be"]),
    ],
)
def test_the_parameters_of_the_flow_become_options_of_the_command(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple, options: list[str]
) -> None:
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(promotion, "run", lambda *command: commands.append(command))
    assert promotion.promote.fn(*arguments).name == "Completed"
    assert commands == [("landuse", "promote", *options)]


def test_a_refusal_is_a_result_and_every_other_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: str) -> None:
        raise failure

    monkeypatch.setattr(promotion, "run", run)
    failure = CommandFailed("too many mistakes", Refused.exit_code)
    state = promotion.promote.fn(None, False, None, False)
    assert (state.name, state.message) == ("Refused", "too many mistakes")
    for code in (1, TEMPORARY):
        failure = CommandFailed("not judged", code)
        with pytest.raises(CommandFailed, match="not judged"):
            promotion.promote.fn(None, False, None, False)


@pytest.mark.parametrize(
    ("promoted", "verdict", "subjects"),
    [
        (True, "passed", ["landuse version 4 is the champion"]),
        (True, "refused", ["landuse version 4 is the champion"]),
        (False, "refused", ["landuse version 4 stays challenger"]),
        (False, "passed", []),
    ],
)
def test_people_hear_of_a_promotion_and_of_a_refusal_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, promoted: bool, verdict: str, subjects: list[str]
) -> None:
    notified: list[str] = []
    monkeypatch.setattr(promotion, "notify", lambda subject, _: notified.append(subject))
    blessing = {"model": "landuse", "version": "4", "champion": None, "verdict": verdict, "promoted": promoted}
    blessing |= {"forced": False, "reason": None, "moment": "", "data": "", "compared_on": 60, "checks": []}
    promotion.notify_verdict(blessing)
    assert notified == subjects
