"""The parts of the output: half a row at its end, and the counts at the end of the work."""

from pathlib import Path

import pyarrow.parquet
import pytest

from landuse.core.errors import LanduseError
from landuse.predict import parquet
from landuse.predict.output import cut_half_a_row, growing_file, open_alone
from landuse.predict.rows import Answer
from landuse.predict.tally import SHOWN, Tally

LABELS, MODEL = ["forest", "water"], "models:/landuse/1"


def append(output: Path, name: str) -> int:
    """Write a row as another command would; the number of rows that are there then."""
    with growing_file(output, LABELS, MODEL) as rows:
        rows.write(Answer(name, error="broken"))
    return rows.tally.images


def test_of_two_that_go_on_with_a_finished_parquet_file_at_once_one_is_told_and_no_row_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    told, unpack = [], parquet.unpack

    def unpack_while_another_comes(path: Path, lines: Path) -> None:
        for step in (lambda: None, lambda: unpack(path, lines)):
            step()
            with pytest.raises(LanduseError, match="another landuse predict is writing it") as refused:
                append(output, "lost.png")
            told.append(refused)

    monkeypatch.setattr(parquet, "unpack", unpack_while_another_comes)
    assert append(output, "second.png") == 2 and len(told) == 2
    monkeypatch.undo()
    assert append(output, "third.png") == 3 and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_parquet_file_with_the_columns_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    rows = pyarrow.parquet.read_table(output)
    pyarrow.parquet.write_table(rows.append_column("reviewed", [[True]]), output)
    before = output.read_bytes()
    with pytest.raises(LanduseError, match="out.parquet has the column reviewed of somebody else: name another file"):
        append(output, "second.png")
    assert output.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_parquet_file_with_damaged_pages_is_left_alone(tmp_path: Path) -> None:
    append(output := tmp_path / "out.parquet", "first.png")
    content = bytearray(output.read_bytes())
    content[4:60] = bytes(byte ^ 0x5A for byte in content[4:60])
    output.write_bytes(content)
    with pytest.raises(LanduseError, match="out.parquet is no Parquet file of predictions: name another file"):
        append(output, "second.png")
    assert output.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_file_that_was_put_into_its_place_before_it_was_locked_is_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"

    def too_late(*_: object) -> None:
        path.unlink()
        path.touch()

    monkeypatch.setattr("landuse.predict.output.hold", too_late)
    with pytest.raises(LanduseError, match="busy"):
        open_alone(path, "busy")


def test_half_a_row_is_cut_however_long_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    for content, kept in [
        (b"", b""),
        (b"x" * 200_000, b""),
        (b"a\nb" + b"x" * 200_000, b"a\n"),
        (b"a\nb\n", b"a\nb\n"),
    ]:
        path.write_bytes(content)
        with path.open("a+b") as file:
            cut_half_a_row(file)
        assert path.read_bytes() == kept


def test_of_many_bad_files_the_first_are_named_and_all_are_counted() -> None:
    tally = Tally()
    for number in range(SHOWN + 5):
        tally.count(f"{number}.png", unsure=False, error="broken")
    tally.count("good.png", unsure=True, error=None)
    lines = str(tally).splitlines()
    assert lines[0] == "0.png: broken" and lines[SHOWN] == "… and 5 more" and len(lines) == SHOWN + 2
    assert lines[-1] == "images 26: answered 1 (unsure 1), bad 25"
