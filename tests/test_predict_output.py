"""The parts of the output: half a row at its end, and the counts at the end of the work."""

from pathlib import Path

from landuse.predict.output import cut_half_a_row
from landuse.predict.tally import SHOWN, Tally


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
