"""What is seen of a stage while it works, and what is kept off the screen."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from time import sleep

import pytest

from landuse.core.progress import EpochBars, track
from landuse.core.streams import native_stderr_muted


def test_a_bar_passes_every_item_on_and_ends_full(capfd: pytest.CaptureFixture) -> None:
    assert list(track(iter("abc"), 3, "extract")) == ["a", "b", "c"]
    assert "extract" in (out := capfd.readouterr().out) and "3/3" in out


def test_a_bar_of_one_item_says_how_fast_that_was(capfd: pytest.CaptureFixture) -> None:
    for _ in track(range(1), 1, "predict"):
        sleep(0.2)
    assert 0 < float(re.search(r"1/1 (\d+\.\d)/s", capfd.readouterr().out)[1]) <= 5


@pytest.mark.parametrize(("total", "done"), [(20, range(2, 20, 2)), (3, [1, 2]), (1, []), (0, [])])
def test_where_no_terminal_shows_the_bar_every_tenth_of_the_way_is_a_line(
    capfd: pytest.CaptureFixture, total: int, done: Iterable[int]
) -> None:
    assert len(list(track(range(total), total, "extract"))) == total
    lines = [line for line in capfd.readouterr().out.splitlines() if re.match(r"extract \d", line)]
    assert lines == [f"extract {number}/{total}" for number in done]


def test_a_line_of_progress_is_there_before_the_next_item_is_asked_for(capfd: pytest.CaptureFixture) -> None:
    passed = track(range(10), 10, "extract")
    for _ in range(4):
        next(passed)
    assert capfd.readouterr().out.splitlines()[-1] == "extract 3/10"


def test_on_a_terminal_the_bar_is_enough(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track(range(10), 10, "extract"))
    assert "10/10" in (out := capfd.readouterr().out) and "extract 3/10\n" not in out


def test_a_bar_leaves_standard_output_to_the_results_where_it_is_asked_to(capfd: pytest.CaptureFixture) -> None:
    list(track(range(20), 20, "predict", stderr=True))
    printed = capfd.readouterr()
    assert "20/20" in printed.err and printed.out == ""


def test_the_line_of_an_epoch_stays_on_the_screen_as_it_was_given(capfd: pytest.CaptureFixture) -> None:
    bars = EpochBars(train=10, validation=4)
    bars.move("train", 6, "loss 0.2")
    bars.move("train", 10, "loss 0.1")
    bars.line("epoch   1/2  train loss 0.100 accuracy 100.0%" + " " * 40 + "end")
    assert bars.progress.tasks[0].completed == 10 and not bars.progress.tasks[1].finished
    assert "epoch   1/2  train loss 0.100 accuracy 100.0%" + " " * 40 + "end\n" in capfd.readouterr().out


def test_native_notes_are_muted_and_what_follows_is_not(capfd: pytest.CaptureFixture) -> None:
    with native_stderr_muted():
        os.write(2, b"a native note")
    os.write(2, b"an error")
    assert capfd.readouterr().err == "an error"


def test_an_exception_comes_through_the_silence_and_ends_it(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="heard"), native_stderr_muted():
        raise ValueError("heard")
    print("seen", file=sys.stderr, flush=True)
    assert "seen" in capfd.readouterr().err


@pytest.mark.slow
def test_keras_starts_without_what_it_does_not_need_and_others_can_have_it_afterwards() -> None:
    lines = (
        "import sys",
        "from landuse.core.streams import tensorflow_starts",
        "with tensorflow_starts():",
        "    import keras",
        "print(sorted({'matplotlib', 'sklearn'} & set(sys.modules)))",
        "import matplotlib.pyplot, sklearn.metrics",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_closed_streams_are_taken_for_nowhere() -> None:
    lines = (
        "import sys",
        "from landuse.core.streams import native_stderr_muted, open_closed_streams",
        "open_closed_streams()",
        "with native_stderr_muted():",
        "    print('out', flush=True)",
        "print('err', file=sys.stderr, flush=True)",
    )
    command = shlex.join([sys.executable, "-c", "\n".join(lines)])
    assert subprocess.run(f"{command} <&- >&- 2>&-", shell=True).returncode == 0
