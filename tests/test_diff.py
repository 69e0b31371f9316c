"""A diff tells what changed in the data set since a revision, and shows the images on a page."""

import re
import subprocess
from hashlib import md5
from io import BytesIO
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image
from workspace import IDENTITY

from landuse.core.errors import LanduseError
from landuse.core.paths import DIFF_PAGE
from landuse.diff import diff, page
from landuse.project.dvc_cache import cached_file


def picture(seed: int) -> bytes:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(files: dict[str, bytes]) -> None:
    """Make a data set of these files alone, and version it."""
    rmtree("data", ignore_errors=True)
    for name, content in files.items():
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with Repo() as repo:
        repo.add("data")


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True, capture_output=True, env=IDENTITY)


BEFORE = {f"beach/{number}.png": picture(number) for number in range(3)}
AFTER = {
    "beach/0.png": picture(0),
    "river/1.png": picture(1),
    "beach/2.png": picture(20),
    "river/<new>.png": picture(30),
    "river/b.png": picture(31),
}


@pytest.fixture(autouse=True)
def history(project: Path) -> Path:
    """A project with a first commit without data, and a data set in the second, which has changed since."""
    git("commit", "--quiet", "--allow-empty", "--message", "empty")
    write(BEFORE)
    git("add", "data.dvc")
    git("commit", "--quiet", "--message", "first")
    write(AFTER)
    return project


def test_a_diff_tells_what_changed_in_words_and_counts() -> None:
    lines = diff("HEAD").splitlines()
    assert lines[0] == "+2 images (river +2), 1 relabelled, 1 changed in content"
    assert [line.split() for line in lines[1:4]] == [["HEAD", "now"], ["beach", "3", "2"], ["river", "0", "3"]]
    assert lines[4] == "artifacts/diff.html shows the images"


def test_the_page_shows_every_kind_of_change_from_the_cache() -> None:
    rmtree("data")
    diff("HEAD")
    html = DIFF_PAGE.read_text("utf-8")
    for title, number, images in (("added", 2, 2), ("relabelled", 1, 1), ("changed-in-content", 1, 2)):
        [section] = re.findall(rf'<section id="{title}">(.*?)</section>', html, re.DOTALL)
        assert f"<p>{number} image" in section and section.count("<img src=") == images
    assert "beach → river" in html and 'id="removed"' not in html
    assert "river/&lt;new&gt;.png" in html and "<new>" not in html and "http" not in html


def test_two_revisions_are_compared_in_either_direction() -> None:
    git("commit", "--quiet", "--all", "--message", "second")
    assert diff("HEAD~1", "HEAD").startswith("+2 images (river +2)")
    assert diff("HEAD", "HEAD~1").startswith("−2 images (river −2), 1 relabelled")
    assert diff("HEAD") == "no images changed\nartifacts/diff.html shows the images"


def test_of_a_large_group_the_first_are_shown_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_CARDS", 1)
    diff("HEAD")
    html = DIFF_PAGE.read_text("utf-8")
    assert "<p>2 images, of which the first 1 are shown; 1 more.</p>" in html and "river/b.png" not in html


def test_an_image_that_left_the_cache_is_said_to_be_missing() -> None:
    file = cached_file(md5(picture(31)).hexdigest())
    file.unlink()
    diff("HEAD")
    assert DIFF_PAGE.read_text("utf-8").count("not in DVC's cache") == 1


@pytest.mark.parametrize(
    ("revision", "words"),
    [
        ("nowhere", "^nowhere is no revision of this project in git"),
        ("--all", "^--all is no revision"),
        ("HEAD~1", "^HEAD~1 has no data.dvc: git log -- data.dvc shows"),
        ("HEAD:data.dvc", "is no revision"),
    ],
)
def test_an_unknown_revision_or_one_without_data_is_told_in_one_line(revision: str, words: str) -> None:
    with pytest.raises(LanduseError, match=words) as refusal:
        diff(revision)
    assert "\n" not in str(refusal.value) and not DIFF_PAGE.exists()


def test_a_data_set_that_left_the_cache_is_told_in_one_line() -> None:
    rmtree(".dvc/cache")
    with pytest.raises(LanduseError, match=r"is not in DVC's cache: dvc fetch --all-commits data\.dvc"):
        diff("HEAD")


def test_outside_of_git_no_revision_is_known() -> None:
    rmtree(".git")
    with pytest.raises(LanduseError, match="HEAD is no revision of this project in git"):
        diff("HEAD")
