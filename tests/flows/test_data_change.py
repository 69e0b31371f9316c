"""A retraining says in words and counts how its data changed."""

import pandas as pd
import pytest

from landuse.project.listings import compare_listings
from pipelines.steps.data_change import DataSet, compare_contents, describe_data_change

BEFORE = {"beach": 40, "forest": 40, "river": 40, "tanks": 40}
MANY = {f"class{number}": 10 + number for number in range(8)}


def data_set(counts: dict[str, int], md5: str = "new") -> DataSet:
    return DataSet(md5, pd.Series(counts, dtype="int64").sort_index())


@pytest.mark.parametrize(
    ("counts", "short", "more"),
    [
        ({"beach": 40, "forest": 40, "tanks": 40}, "40 images fewer, class river gone", ""),
        (BEFORE | {"beach": 28, "forest": 43}, "9 images fewer", "beach 12 fewer, forest 3 more"),
        (BEFORE | {"beach": 41}, "1 image more", "beach 1 more"),
        (BEFORE | {"beach": 41, "tanks": 39}, "as many images as before", "beach 1 more, tanks 1 fewer"),
        (dict.fromkeys(BEFORE, 42), "8 images more", "each of 4 classes has 2 more"),
        (BEFORE | {"ponds": 7, "farms": 1000}, "1,007 images more, classes farms, ponds new", ""),
        ({"ponds": 1}, "159 images fewer, classes beach, forest, river, tanks gone, class ponds new", ""),
        (BEFORE, "other images, as many of every class as before", "160 images in 4 classes, 40 each"),
    ],
)
def test_a_change_is_told_in_words_and_counts(counts: dict[str, int], short: str, more: str) -> None:
    assert describe_data_change(data_set(counts), data_set(BEFORE, "old"), is_first=False) == (short, more)


def test_a_change_that_is_known_by_content_is_told_by_content() -> None:
    before = {"beach/a.png": "A", "river/b.png": "B"}
    contents = compare_listings(before, {"beach/a.png": "A", "beach/b.png": "B", "beach/c.png": "C"})
    told = describe_data_change(data_set({"beach": 3}), data_set(BEFORE, "old"), False, contents)
    assert told == ("+1 image (beach +1), 1 relabelled, classes forest, river, tanks gone", "")
    assert compare_contents(data_set(BEFORE), data_set(BEFORE, "old")) is None, "neither is in a cache"


def test_of_many_changed_classes_those_that_changed_most_are_named() -> None:
    now = data_set({label: 2 * count for label, count in MANY.items()})
    assert describe_data_change(now, data_set(MANY, "old"), is_first=False)[1] == (
        "class7 17 more, class6 16 more, class5 15 more, class4 14 more, class3 13 more, and 3 other classes changed"
    )


def test_the_same_data_and_the_first_data_are_told() -> None:
    now = data_set({"beach": 1, "forest": 1_200})
    size = "1,201 images in 2 classes, 1 (beach) to 1200 (forest) each"
    assert describe_data_change(now, now, is_first=False) == ("no images changed", f"still {size}")
    assert describe_data_change(now, None, is_first=True) == ("the first data set", size)
    assert describe_data_change(now, None, is_first=False) == ("the data set before is not known any more", size)
