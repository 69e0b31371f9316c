"""Images held out for the champion: how many moved to another subset, and why."""

import pandas as pd
import pytest

from landuse.promote.held_out import describe_moves

COLUMNS = ["sha256", "label", "group", "subset"]
BEFORE = pd.DataFrame(
    [
        ("a", "beach", 0, "test"),
        ("b", "beach", 1, "validation"),
        ("c", "river", 2, "test"),
        ("d", "river", 3, "train"),
        ("gone", "river", 4, "test"),
    ],
    columns=COLUMNS,
)


def after(*changes: tuple[str, str, object]) -> pd.DataFrame:
    """Return the split of now: one image left, another came, and some values of others changed."""
    rows = BEFORE[BEFORE["sha256"] != "gone"].set_index("sha256")
    rows.loc["new"] = ("river", 9, "train")
    for image, column, value in changes:
        rows.loc[image, column] = value
    return rows.reset_index()


def test_images_that_kept_their_subset_are_counted() -> None:
    assert describe_moves(BEFORE, after(), True) == "none of the 3 that are still here changed its subset"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "their classes grew or shrank"),
        ([("a", "label", "river")], "they were relabelled"),
        ([("new", "group", 0)], "images that look like them came or left"),
    ],
)
def test_the_reason_for_a_move_is_told(changes: list[tuple[str, str, object]], words: str) -> None:
    told = describe_moves(BEFORE, after(("a", "subset", "train"), *changes), True)
    assert told == f"1 of the 3 that are still here changed their subset: 1 since {words}; 1 of them are trained on now"


def test_other_params_of_the_split_explain_every_move() -> None:
    told = describe_moves(BEFORE, after(("a", "subset", "validation"), ("c", "subset", "train")), False)
    assert told.endswith("subset: 2 since split.* in params.yaml changed; 1 of them are trained on now")


def test_several_reasons_are_counted_and_copies_of_an_image_count_once() -> None:
    now = after(("a", "subset", "train"), ("b", "subset", "test"), ("c", "subset", "validation"), ("c", "label", "x"))
    told = describe_moves(pd.concat([BEFORE, BEFORE.iloc[[0]]]), now, True)
    assert "3 of the 3" in told and "2 since their classes grew" in told and "1 since they were relabelled" in told
