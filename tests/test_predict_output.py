"""Tests of the output of predictions: locking, damaged files, partial rows and counts."""

from pathlib import Path

import pyarrow.parquet
import pytest

from landuse.core.errors import LanduseError
from landuse.ml.classifier import Prediction
from landuse.predict import parquet
from landuse.predict.output import FORMATS, append_to_file, drop_partial_row, open_locked
from landuse.predict.rows import ImageResult
from landuse.predict.tally import MAX_LISTED, Tally

LABELS, MODEL = ["forest", "water"], "models:/landuse/1"


def append(output: Path, name: str) -> int:
    """Append a row as another command would; returns the number of rows afterwards."""
    with append_to_file(output, LABELS, MODEL) as rows:
        rows.write(ImageResult(name, error="broken"))
    return rows.tally.images


def test_two_processes_appending_to_a_parquet_file_lose_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    refusals, unpack = [], parquet.unpack

    def unpack_while_another_appends(path: Path, lines: Path) -> None:
        for step in (lambda: None, lambda: unpack(path, lines)):
            step()
            with pytest.raises(LanduseError, match="another landuse predict is writing it") as refused:
                append(output, "lost.png")
            refusals.append(refused)

    monkeypatch.setattr(parquet, "unpack", unpack_while_another_appends)
    assert append(output, "second.png") == 2 and len(refusals) == 2
    monkeypatch.undo()
    assert append(output, "third.png") == 3 and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_parquet_file_with_foreign_columns_is_left_unchanged(tmp_path: Path) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    rows = pyarrow.parquet.read_table(output)
    pyarrow.parquet.write_table(rows.append_column("reviewed", [[True]]), output)
    before = output.read_bytes()
    with pytest.raises(LanduseError, match="out.parquet has the column reviewed of somebody else: name another file"):
        append(output, "second.png")
    assert output.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_parquet_file_with_damaged_pages_is_left_unchanged(tmp_path: Path) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    content = bytearray(output.read_bytes())
    content[4:60] = bytes(byte ^ 0x5A for byte in content[4:60])
    output.write_bytes(content)
    with pytest.raises(LanduseError, match="out.parquet is no Parquet file of predictions: name another file"):
        append(output, "second.png")
    assert output.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_file_replaced_before_it_was_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.jsonl"

    def replace_file(*_: object) -> None:
        path.unlink()
        path.touch()

    monkeypatch.setattr("landuse.predict.output.lock_file", replace_file)
    with pytest.raises(LanduseError, match="busy"):
        open_locked(path, "busy")


def test_a_partial_row_is_dropped_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for content, remaining in [
        (b"", b""),
        (b"x" * 200_000, b""),
        (b"a\nb" + b"x" * 200_000, b"a\n"),
        (b"a\nb\n", b"a\nb\n"),
    ]:
        path.write_bytes(content)
        with path.open("a+b") as file:
            drop_partial_row(file)
        assert path.read_bytes() == remaining


@pytest.mark.parametrize("suffix", FORMATS)
def test_unsure_predictions_are_counted_also_those_of_earlier_rows(tmp_path: Path, suffix: str) -> None:
    probabilities = dict.fromkeys(LABELS, 0.5)
    for count in (1, 2):
        with append_to_file(tmp_path / f"out{suffix}", LABELS, MODEL) as rows:
            for unsure in (True, False):
                prediction = Prediction(
                    label="water", confidence=0.5, unsure=unsure, top=[], probabilities=probabilities
                )
                rows.write(ImageResult(f"{count} {unsure}.png", prediction))
        assert (rows.tally.unsure, rows.tally.images) == (count, 2 * count)


def test_rows_outlast_a_failure_to_pack_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("Input/output error")

    with monkeypatch.context() as patch, pytest.raises(LanduseError, match="Input/output error"):
        patch.setattr(parquet.os, "replace", fail)
        append(tmp_path / "out.parquet", "first.png")
    assert append(tmp_path / "out.parquet", "second.png") == 2


def test_the_first_bad_files_are_named_and_all_are_counted() -> None:
    tally = Tally()
    for number in range(MAX_LISTED + 5):
        assert "more" not in str(tally) or number > MAX_LISTED
        tally.count(f"{number}.png", unsure=False, error="broken")
    tally.count("good.png", unsure=True, error=None)
    lines = str(tally).splitlines()
    assert lines[0] == "0.png: broken" and lines[MAX_LISTED] == "… and 5 more" and len(lines) == MAX_LISTED + 2
    assert lines[-1] == "images 26: answered 1 (unsure 1), bad 25"
