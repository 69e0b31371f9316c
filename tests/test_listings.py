"""Two versions of the data set are compared by content, and the difference is told in words."""

from hashlib import md5
from pathlib import Path

import pytest
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st

from landuse.core.errors import LanduseError
from landuse.project.listings import DataChange, compare_listings, read_listing

BEFORE = {"beach/a.png": "A", "beach/b.png": "B", "river/c.png": "C", "river/d.png": "D"}


def change(after: dict[str, str], before: dict[str, str] = BEFORE) -> DataChange:
    return compare_listings(before, after)


def many(label: str, count: int) -> dict[str, str]:
    return {f"{label}/{number}.png": f"{label}{number}" for number in range(count)}


def test_images_that_came_and_went_are_counted_by_class() -> None:
    after = {"beach/a.png": "A", "river/c.png": "C", "river/e.png": "E", "tanks/f.png": "F", "river/g.png": "G"}
    found = change(after)
    assert found.added == ("river/e.png", "river/g.png", "tanks/f.png")
    assert found.removed == ("beach/b.png", "river/d.png")
    assert str(found) == "+3 images (river +2, tanks +1), −2 (beach −1, river −1)"


def test_the_same_content_in_another_class_was_relabelled() -> None:
    found = change({"beach/a.png": "A", "river/b.png": "B", "river/c.png": "C", "beach/x.png": "D"})
    assert found.moved == (("beach/b.png", "river/b.png"), ("river/d.png", "beach/x.png"))
    assert str(found) == "2 images relabelled"


def test_a_renamed_image_is_no_change_for_people() -> None:
    found = change({"beach/z.png": "A", "beach/b.png": "B", "river/c.png": "C", "river/d.png": "D"})
    assert found.renamed == (("beach/a.png", "beach/z.png"),)
    assert str(found) == str(change(BEFORE)) == "no images changed"


def test_two_images_that_exchanged_names_were_renamed_or_relabelled() -> None:
    assert change(BEFORE | {"beach/a.png": "B", "beach/b.png": "A"}).renamed
    found = change(BEFORE | {"beach/a.png": "C", "river/c.png": "A"})
    assert found.moved == (("beach/a.png", "river/c.png"), ("river/c.png", "beach/a.png")) and not found.edited


def test_another_content_under_the_same_path_was_changed_if_the_old_one_is_gone() -> None:
    found = change(BEFORE | {"beach/a.png": "new"})
    assert found.edited == ("beach/a.png",) and str(found) == "1 image changed in content"
    found = change(BEFORE | {"beach/a.png": "new", "beach/old.png": "A"})
    assert found.added == ("beach/a.png",) and found.renamed and not found.edited


def test_a_second_copy_of_an_image_is_one_image_more() -> None:
    assert str(change(BEFORE | {"beach/copy.png": "A"})) == "+1 image (beach +1)"
    assert str(change(BEFORE, BEFORE | {"beach/copy.png": "A"})) == "−1 image (beach −1)"


def test_of_many_classes_the_five_that_changed_most_are_named() -> None:
    sizes = {f"class{number}": number for number in range(1, 9)}
    after = {path: md5 for label, count in sizes.items() for path, md5 in many(label, count).items()}
    named = "class8 +8, class7 +7, class6 +6, class5 +5, class4 +4"
    assert str(change(after, {})) == f"+36 images ({named} and 3 other classes)"
    del after["class1/0.png"], after["class2/0.png"], after["class2/1.png"]
    assert str(change(after, {})) == f"+33 images ({named} and 1 other class)"


def test_equal_changes_of_many_classes_are_told_as_one() -> None:
    after = {path: md5 for number in range(6) for path, md5 in many(f"class{number}", 200).items()}
    assert str(change(after, {})) == "+1,200 images (200 in each of 6 classes)"


def test_every_kind_of_change_is_told_in_one_line() -> None:
    after = many("beach", 60) | {"beach/a.png": "A2", "river/b.png": "B", "river/c.png": "C"}
    assert str(change(after)) == "+60 images (beach +60), −1 (river −1), 1 relabelled, 1 changed in content"


CONTENTS = st.sampled_from("ABCDE")
LISTINGS = st.dictionaries(st.sampled_from([f"{label}/{n}.png" for label in "xyz" for n in range(4)]), CONTENTS)


@given(before=LISTINGS, after=LISTINGS)
def test_every_image_before_and_after_is_told_once(before: dict[str, str], after: dict[str, str]) -> None:
    found = compare_listings(before, after)
    pairs = [*found.moved, *found.renamed]
    gone = [*found.removed, *found.edited, *(old for old, _ in pairs)]
    come = [*found.added, *found.edited, *(new for _, new in pairs)]
    assert sorted(gone) == sorted(path for path in before if after.get(path) != before[path])
    assert sorted(come) == sorted(path for path in after if before.get(path) != after[path])
    assert all(before[old] == after[new] for old, new in pairs)
    assert all(after[path] != before[path] for path in found.edited)


@pytest.fixture
def version(project: Path) -> str:
    """The version of a data set of two files in DVC."""
    for name in ("field/a.png", "water/b.png"):
        path = Path("data", name)
        path.parent.mkdir(parents=True)
        path.write_text(name)
    with Repo() as repo:
        [stage] = repo.add("data")
        return str(stage.outs[0].hash_info.value)


def test_the_files_of_a_version_are_read_from_the_cache(version: str) -> None:
    names = ("field/a.png", "water/b.png")
    assert read_listing(version) == {name: md5(name.encode()).hexdigest() for name in names}


def test_a_version_that_left_the_cache_is_named_with_how_to_bring_it_back(version: str) -> None:
    [listing] = Path(".dvc/cache").rglob("*.dir")
    listing.chmod(0o600)
    listing.write_text("{")
    with pytest.raises(LanduseError, match=r"\.dir is damaged: remove it, then dvc fetch data\.dvc$"):
        read_listing(version)
    listing.unlink()
    missing = rf"^version {version} of data/ is not in DVC's cache: dvc fetch --all-commits data\.dvc brings it"
    with pytest.raises(LanduseError, match=missing):
        read_listing(version)
