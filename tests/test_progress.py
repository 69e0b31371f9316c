"""Progress bars, and muted startup messages."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from time import sleep

import pytest

from landuse.core.progress import EpochBars, track
from landuse.core.streams import mute_native_stderr


def test_a_bar_yields_every_item_and_ends_full(capfd: pytest.CaptureFixture) -> None:
    assert list(track(iter("abc"), 3, "extract")) == ["a", "b", "c"]
    assert "extract" in (out := capfd.readouterr().out) and "3/3" in out


def test_a_bar_of_one_item_shows_its_speed(capfd: pytest.CaptureFixture) -> None:
    for _ in track(range(1), 1, "predict"):
        sleep(0.2)
    assert 0 < float(re.search(r"1/1 (\d+\.\d)/s", capfd.readouterr().out)[1]) <= 5


@pytest.mark.parametrize(("total", "done"), [(20, range(2, 20, 2)), (3, [1, 2]), (1, []), (0, [])])
def test_without_a_terminal_every_tenth_of_the_way_is_a_line(
    capfd: pytest.CaptureFixture, total: int, done: Iterable[int]
) -> None:
    assert len(list(track(range(total), total, "extract"))) == total
    lines = [line for line in capfd.readouterr().out.splitlines() if re.match(r"extract \d", line)]
    assert lines == [f"extract {number}/{total}" for number in done]


def test_a_line_of_progress_is_printed_before_the_next_item_is_fetched(capfd: pytest.CaptureFixture) -> None:
    items = track(range(10), 10, "extract")
    for _ in range(4):
        next(items)
    assert capfd.readouterr().out.splitlines()[-1] == "extract 3/10"


def test_on_a_terminal_there_are_no_lines_besides_the_bar(
    capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track(range(10), 10, "extract"))
    assert "10/10" in (out := capfd.readouterr().out) and "extract 3/10\n" not in out


def test_a_bar_on_standard_error_leaves_standard_output_to_the_results(capfd: pytest.CaptureFixture) -> None:
    list(track(range(20), 20, "predict", stderr=True))
    printed = capfd.readouterr()
    assert "20/20" in printed.err and printed.out == ""


def test_the_line_of_an_epoch_stays_on_the_screen_unchanged(capfd: pytest.CaptureFixture) -> None:
    bars = EpochBars(train=10, validation=4)
    bars.update("train", 6, "loss 0.2")
    bars.update("train", 10, "loss 0.1")
    bars.print_line("epoch   1/2  train loss 0.100 accuracy 100.0%" + " " * 40 + "end")
    assert bars.progress.tasks[0].completed == 10 and not bars.progress.tasks[1].finished
    assert "epoch   1/2  train loss 0.100 accuracy 100.0%" + " " * 40 + "end\n" in capfd.readouterr().out


def test_native_messages_are_muted_only_within_the_context(capfd: pytest.CaptureFixture) -> None:
    with mute_native_stderr():
        os.write(2, b"a native message")
    os.write(2, b"an error")
    assert capfd.readouterr().err == "an error"


def test_an_exception_passes_through_the_muting_and_ends_it(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="heard"), mute_native_stderr():
        raise ValueError("heard")
    print("seen", file=sys.stderr, flush=True)
    assert "seen" in capfd.readouterr().err


@pytest.mark.slow
def test_keras_is_imported_without_unused_libraries_which_can_be_imported_later() -> None:
    lines = (
        "import sys",
        "from landuse.core.streams import quiet_tensorflow_import",
        "with quiet_tensorflow_import():",
        "    import keras",
        "print(sorted({'matplotlib', 'sklearn'} & set(sys.modules)))",
        "import matplotlib.pyplot, sklearn.metrics",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_closed_streams_are_replaced() -> None:
    lines = (
        "import sys",
        "from landuse.core.streams import mute_native_stderr, open_closed_streams",
        "open_closed_streams()",
        "with mute_native_stderr():",
        "    print('out', flush=True)",
        "print('err', file=sys.stderr, flush=True)",
    )
    command = shlex.join([sys.executable, "-c", "\n".join(lines)])
    assert subprocess.run(f"{command} <&- >&- 2>&-", shell=True).returncode == 0
