"""Tests of finding images by files, folders and patterns; links that lead out of a named folder are not followed."""

import os
from pathlib import Path

import pytest

from landuse.core.errors import LanduseError
from landuse.predict.sources import find_images, matches, require_existing

FILES = ["a/1.png", "a/2.JPG", "a/notes.txt", "a/deep/3.tif", "b/4.webp", "b/.hidden.png", ".git/5.png", "b/[x].png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in FILES:
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "6.png").touch()
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def found(*paths: str) -> set[str]:
    """Return the images found without problems, asserting that each is found once."""
    images = [str(image.path) for image in find_images(paths) if not image.problem]
    assert len(images) == len(set(images))
    return set(images)


def problems(*paths: str) -> dict[str, str]:
    return {str(image.path): image.problem for image in find_images(paths) if image.problem}


ALL = {"a/1.png", "a/2.JPG", "a/deep/3.tif", "b/4.webp", "b/[x].png"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (".", ALL),
        ("a", {"a/1.png", "a/2.JPG", "a/deep/3.tif"}),
        ("*", ALL),
        ("**", ALL),
        ("**/*.png", {"a/1.png", "b/[x].png"}),
        ("a/*.*", {"a/1.png", "a/2.JPG"}),
        ("?/[0-3].*", {"a/1.png", "a/2.JPG"}),
        ("*/deep", {"a/deep/3.tif"}),
        ("a/**/3.tif", {"a/deep/3.tif"}),
        ("b/[x].png", {"b/[x].png"}),
        ("a/notes.txt", {"a/notes.txt"}),
        ("*.gif", set()),
        ("nowhere/*.png", set()),
    ],
)
def test_a_path_finds_these_images(folder: Path, path: str, expected: set[str]) -> None:
    assert found(path) == expected
    assert found(str(folder / path)) == {str(folder / name) for name in expected}


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b/c.png", "**/c.png", True),
        ("c.png", "**/c.png", True),
        ("a/b/c.png", "*/c.png", False),
        ("a/b/c.png", "a", True),
        ("ab/c.png", "a", False),
        ("a/b/c.png", "**/b/**", True),
        ("a/b", "a/b/c", False),
    ],
)
def test_a_pattern_matches_part_by_part_and_everything_below(path: str, pattern: str, expected: bool) -> None:
    assert matches(path.split("/"), pattern.split("/")) == expected


def test_a_link_is_followed_if_it_stays_in_the_folder(folder: Path) -> None:
    Path("b/inner.png").symlink_to(folder / "a" / "1.png")
    Path("b/again").symlink_to(folder / "a")
    Path("a/loop").symlink_to(folder)
    assert found(".") == ALL | {"b/inner.png"} and problems(".") == {}


@pytest.mark.parametrize("path", [".", "**/*", "a"])
def test_a_link_out_of_the_folder_is_trouble_and_is_not_followed(folder: Path, path: str) -> None:
    Path("a/out.png").symlink_to("../../outside/6.png")
    Path("a/away").symlink_to(folder.parent / "outside")
    out = "it is a link that leads out of the folder: name the file itself"
    assert problems(path) == {"a/out.png": out, "a/away": out}
    assert not any("6.png" in name for name in found(path))


def test_a_link_to_itself_is_an_unreadable_file_and_hides_no_other(folder: Path) -> None:
    Path("a/loop.png").symlink_to("loop.png")
    assert found(".") == ALL | {"a/loop.png"} and problems(".") == {}


def test_a_link_named_explicitly_is_followed(folder: Path) -> None:
    Path("away").symlink_to(folder.parent / "outside")
    assert found("away") == {"away/6.png"} == found("away/*.png")


def test_special_files_are_skipped(folder: Path) -> None:
    os.mkfifo("a/pipe.png")
    assert found("a") == {"a/1.png", "a/2.JPG", "a/deep/3.tif"}
    with pytest.raises(LanduseError, match="a/pipe.png: there is no such image, folder or pattern"):
        require_existing(["a/1.png", "a/pipe.png"])


def test_an_impossible_file_name_is_refused(folder: Path) -> None:
    with pytest.raises(LanduseError, match="^aaa.*: File name too long$"):
        require_existing(["a" * 5000])


def test_a_missing_path_is_refused_by_name(folder: Path) -> None:
    require_existing(["a", "*/x.png", "b/[x].png"])
    with pytest.raises(LanduseError, match="a/gone.png: there is no such image, folder or pattern"):
        require_existing(["a", "a/gone.png"])
