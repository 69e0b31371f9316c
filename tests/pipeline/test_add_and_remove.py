"""The commands that let a data set grow and shrink, one after the other, in a project with a champion's data."""

from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

from workspace import Workspace

from landuse import sample


def archive(path: Path, images: dict[str, tuple[str, int]]) -> str:
    """Write a zip of sample scenes: class and number, by the path in it."""
    with ZipFile(path, "w") as file:
        for name, (label, number) in images.items():
            sample.draw(label, number).save(buffer := BytesIO(), "PNG")
            file.writestr(name, buffer.getvalue())
    return str(path)


def test_images_join_and_leave_a_data_set_and_a_diff_shows_them(work: Workspace, tmp_path: Path) -> None:
    work.ok("landuse", "promote", "--force", "--reason", "a test")
    new = {"beach/new.png": ("beach", 50), "river/river00.png": ("river", 51), "river/z.png": ("river", 51)}
    added = work.ok("landuse", "ingest", "--add", archive(tmp_path / "tiles.zip", new))
    assert added.startswith("data/ is new: 402 images in 10 classes from sample and 1 batch since; ")
    assert "; +2 images (beach +1, river +1); 1 of its images was there already; taken in under " in added
    assert "a free name: river/river00.png as river/river00-2.png; version " in added
    assert {"data.dvc", "validate"}.isdisjoint(work.stale()), "it is versioned, and validated"
    info = work.ok("landuse", "info")
    assert "\nbatches   2, the last one: tiles.zip, +2 images on 20" in info
    assert "\nchanged   since the champion's data: +2 images (beach +1, river +1)\n" in info
    assert work.ok("landuse", "diff").splitlines()[0] == "+2 images (beach +1, river +1)"
    page = (work.folder / "artifacts" / "diff.html").read_text()
    assert page.count("<img src=") == 2 and "beach/new.png" in page
    (tmp_path / "list.txt").write_text("beach/new.png\nriver/z.png\n")
    assert "line 2, river/z.png, names no image" in work.refused(
        "landuse", "ingest", "--remove", str(tmp_path / "list.txt")
    )
    (tmp_path / "list.txt").write_text("beach/new.png\nriver/river00-2.png\n")
    removed = work.ok("landuse", "ingest", "--remove", str(tmp_path / "list.txt"))
    assert "; −2 images (beach −1, river −1); " in removed and work.stale() == {}
    assert work.ok("landuse", "diff").startswith("no images changed\n")
