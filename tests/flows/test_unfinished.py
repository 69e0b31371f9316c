"""What there is to do: new images, what changed, and what an earlier run left undone."""

import json
from pathlib import Path

import pytest
import tiny
from processes import python

from landuse.errors import LanduseError
from landuse.paths import BLESSING, REGISTRATION
from pipelines import unfinished
from pipelines.commands import CommandFailed
from pipelines.unfinished import REASONS, is_judged, succeeds

look = unfinished.what_is_new.fn  # the function behind the task


@pytest.fixture(autouse=True)
def registered(place: Path) -> None:
    """Version 3 was registered last, and the gate has let it pass."""
    tiny.write_params(place, {"promote": {"automatic": True}})
    REGISTRATION.parent.mkdir()
    REGISTRATION.write_text(json.dumps({"model": "landuse", "version": "3"}))
    bless(verdict="passed", promoted=True)


def bless(**what: object) -> None:
    BLESSING.write_text(json.dumps({"model": "landuse", "version": "3"} | what))


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The exit codes of `dvc status` and `landuse info`, to be changed."""
    answers = {"dvc": 0, "landuse": 0}

    def answer(program: str, *_: str, folder: Path = Path()) -> str:
        if answers[program]:
            raise CommandFailed(f"{program} says no", answers[program])
        return ""

    monkeypatch.setattr(unfinished, "run", answer)
    return answers


def test_after_a_run_that_came_to_its_end_there_is_nothing_but_what_is_asked_for(codes: dict[str, int]) -> None:
    assert look(False, force=False) is None
    assert look(False, force=True) == "forced"


def test_the_first_reason_in_the_order_of_the_pipeline_is_the_one_that_is_told(codes: dict[str, int]) -> None:
    bless(verdict="passed", promoted=False)
    found = [look(False, force=True)]
    codes["landuse"] = 1
    found.append(look(False, force=True))
    codes["dvc"] = 1
    found.append(look(False, force=True))
    found.append(look(True, force=True))
    assert found == ["unjudged", "unregistered", "changed", "new-data"]
    assert set(found) | {"forced"} == set(REASONS)


def test_a_store_that_is_out_of_reach_is_no_lost_registration(codes: dict[str, int]) -> None:
    codes["landuse"] = 75
    with pytest.raises(CommandFailed, match="landuse says no"):
        look(False, force=False)


def test_a_command_says_yes_or_no_or_cannot_tell(place: Path) -> None:
    assert succeeds(*python("")) and not succeeds(*python("raise SystemExit(1)"))
    with pytest.raises(CommandFailed):
        succeeds(*python("raise SystemExit(75)"))


def test_dvc_says_by_its_exit_code_whether_something_changed(place: Path, project: Path) -> None:
    Path(".services").mkdir()
    Path("dvc.yaml").write_text("stages: {count: {cmd: cp params.yaml out, deps: [params.yaml], outs: [out]}}")
    assert not succeeds("dvc", "status", "--quiet")
    unfinished.run("dvc", "repro", "--quiet")
    assert succeeds("dvc", "status", "--quiet")


@pytest.mark.parametrize(
    ("blessing", "judged"),
    [
        ({"verdict": "passed", "promoted": True}, True),
        ({"verdict": "refused", "promoted": False}, True),
        ({"verdict": "refused", "promoted": True}, True),
        ({"verdict": "passed", "promoted": False}, False),
        ({"verdict": "passed", "promoted": True, "version": "2"}, False),
        ({"verdict": "passed", "promoted": True, "model": "other"}, False),
    ],
)
def test_a_version_is_judged_when_the_gate_has_seen_it_and_it_does_not_wait(blessing: dict, judged: bool) -> None:
    bless(**blessing)
    assert is_judged() is judged


def test_where_promotion_is_for_people_a_version_that_passed_waits_for_them(place: Path) -> None:
    tiny.write_params(place, {"promote": {"automatic": False}})
    bless(verdict="passed", promoted=False)
    assert is_judged()


def test_a_version_without_a_blessing_is_not_judged_and_a_damaged_one_is_named() -> None:
    BLESSING.unlink()
    assert not is_judged()
    BLESSING.write_text("{")
    with pytest.raises(LanduseError, match="artifacts/blessing.json is damaged"):
        is_judged()
