"""What the checks of the gate make of numbers and images."""

from dataclasses import replace
from math import comb
from pathlib import Path

import gallery
import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from landuse.core import paths
from landuse.gate.blessing import Check
from landuse.gate.comparison import check_duel, interval, mcnemar, weigh
from landuse.gate.robustness import check_robustness
from landuse.gate.scoring import Evidence, gather
from landuse.gate.slices import check_slices
from landuse.params import PromoteParams, load_params

SIDE = 256


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Every test has a project and a registry of its own."""


def promote_params(**changes: object) -> PromoteParams:
    return replace(load_params().promote, **changes)


def evidence(correct: list[int], labels: list[str] | None = None, groups: list[int] | None = None) -> Evidence:
    """Images that are right (1) or taken for the other of two classes (0); no two look alike unless groups say so."""
    names = ["a", "b"]
    actual = np.array([names.index(label) for label in labels or ["a"] * len(correct)])
    probabilities = np.eye(2, dtype=np.float32)[np.where(correct, actual, 1 - actual)]
    table = pd.DataFrame({"label": np.array(names)[actual], "group": groups or range(len(correct))})
    return Evidence(table, names, actual, probabilities)


def test_a_value_on_the_threshold_passes_whatever_its_last_digits() -> None:
    assert Check.at_most("fall", 0.8 - 0.6, 0.2, "").passed and Check.at_least("gain", 0.6 - 0.8, -0.2, "").passed
    assert not Check.at_most("fall", 0.2001, 0.2, "").passed
    nothing = Check.at_most("fall", float("nan"), 0.2, "")
    assert not nothing.passed and nothing.value is None


def duel(challenger: list[int], champion: list[int], **changes: object) -> dict[str, Check]:
    checks = check_duel(evidence(challenger), evidence(champion), promote_params(**changes))
    return {check.name: check for check in checks}


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 3), (1, 6), (10, 2), (0, 40)])
def test_mcnemar_is_the_exact_binomial_test_worked_out_by_hand(better: int, worse: int) -> None:
    count, fewer = better + worse, min(better, worse)
    tail = sum(comb(count, number) for number in range(fewer + 1)) / 2**count
    assert mcnemar(better, worse) == pytest.approx(min(1, 2 * tail))


def test_a_lead_of_the_champion_fails_once_it_is_no_chance() -> None:
    assert duel([0] * 5 + [1] * 95, [1] * 100)["mcnemar"].passed, "p is 0.0625"
    assert not duel([0] * 6 + [1] * 94, [1] * 100)["mcnemar"].passed, "p is 0.031"
    assert duel([1] * 100, [0] * 6 + [1] * 94)["mcnemar"].passed, "the lead is the challenger's"


def test_images_that_look_alike_are_one_vote_where_chance_is_judged() -> None:
    alike, champion = [0] * 7 + list(range(1, 94)), evidence([1] * 100)
    apart, together = (weigh(evidence([0] * 7 + [1] * 93, groups=groups), champion) for groups in (None, alike))
    assert (apart.better, apart.worse, together.better, together.worse) == (0, 7, 0, 1)
    assert apart.chance == pytest.approx(2 * 0.5**7) and together.chance == 1
    assert together.low < apart.low < 0 and together.high == 0


def test_the_lead_is_that_by_scenes_however_many_images_show_one() -> None:
    ten_scenes, one_scene = [1] * 10 + [0] * 12 + [1] * 78, [0] * 10 + [1] * 12 + [1] * 78
    groups = [*range(10), *[10] * 12, *range(11, 89)]
    leader, other = (evidence(correct, groups=groups) for correct in (ten_scenes, one_scene))
    checks = [check_duel(*pair, promote_params())[0] for pair in ((leader, other), (other, leader))]
    assert [check.passed for check in checks] == [True, False] and checks[0].value == pytest.approx(0.012, abs=0.001)
    assert "right only by this version: 1, only by the champion: 10 (p = 0.012)" in checks[1].sentence


def test_the_interval_is_that_of_the_normal_approximation_and_the_same_every_time() -> None:
    differences = np.repeat([1.0, 0.0, -1.0], [40, 320, 40])
    low, high = interval(differences, range(400))
    expected = 1.96 * differences.std() / np.sqrt(len(differences))
    assert (low, high) == (pytest.approx(-expected, abs=0.004), pytest.approx(expected, abs=0.004))
    assert interval(differences, range(400)) == (low, high)
    many, _ = interval(np.repeat(differences, 1000), range(400_000))
    assert many == pytest.approx(-expected / np.sqrt(1000), rel=0.05), "memory does not grow with the images"


def test_few_images_leave_the_difference_open_however_equal_the_models_look() -> None:
    assert not duel([0, 1] * 10, [1, 0] * 10, margin=0.1)["difference"].passed
    assert duel([0, 1] * 10 + [1] * 480, [1, 0] * 10 + [1] * 480, margin=0.1)["difference"].passed


def test_a_margin_of_nothing_is_no_negative_number() -> None:
    assert duel([0, 1] * 10, [1, 0] * 10, margin=0.0)["difference"].sentence.endswith("+0.0% must be")


def test_a_class_that_falls_fails_though_accuracy_rises() -> None:
    labels = ["a"] * 90 + ["b"] * 10
    before, after = evidence([1] * 60 + [0] * 30 + [1] * 10, labels), evidence([1] * 90 + [0] * 4 + [1] * 6, labels)
    check = check_duel(after, before, promote_params(class_fall=0.3))[-1]
    assert not check.passed and check.value == pytest.approx(0.4) and "recall of b" in check.sentence


def cut_checks(correct: list[int], sizes: list[tuple[int, int]], levels: list[int], **changes: object) -> dict:
    """The slices of flat grey images of these sizes and levels."""
    for index, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        Image.new("RGB", size, (level,) * 3).save(paths.DATA / f"{index:03}.png")
    seen = evidence(correct)
    seen.table["path"] = [f"{index:03}.png" for index in range(len(correct))]
    return {check.name: check for check in check_slices(seen, promote_params(families=(("a", "b"),), **changes))}


def test_the_dark_images_are_a_slice_that_may_fail_alone() -> None:
    checks = cut_checks([0] * 10 + [1] * 20, [(8, 8)] * 30, list(range(30)), slice_accuracy=0.6)
    assert {name for name, check in checks.items() if not check.passed} == {"slice_brightness", "slice_contrast"}, (
        "flat images all have the contrast 0"
    )
    assert checks["slice_brightness"].value == 0 and "dark 0.0%, medium 100.0%" in checks["slice_brightness"].sentence


def test_images_of_unusual_sizes_are_a_slice_once_they_are_enough() -> None:
    sizes, correct = [(8, 8)] * 30 + [(9, 8)] * 12, [1] * 30 + [0] * 12
    few = cut_checks(correct, sizes, [9] * 42, slice_images=13)["slice_size"]
    enough = cut_checks(correct, sizes, [9] * 42, slice_images=12)["slice_size"]
    assert few.passed and "unusual: too few images (12)" in few.sentence
    assert not enough.passed and enough.value == 0


def test_where_no_slice_has_images_enough_the_check_has_no_value_and_passes() -> None:
    check = cut_checks([0] * 6, [(8, 8)] * 6, [9] * 6)["slice_size"]
    assert (check.value, check.passed, check.sentence) == (None, True, "not judged: no slice has 10 images")


def checker() -> Image.Image:
    return Image.fromarray((np.indices((SIDE, SIDE)).sum(0) % 2 * 12 + 100).astype(np.uint8)).convert("RGB")


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (level,) * 3)


def halves() -> Image.Image:
    image = flat(200)
    image.paste((20, 20, 20), (SIDE // 2, 0, SIDE, SIDE))
    return image


def roughness(x: keras.KerasTensor) -> keras.KerasTensor:
    """How far neighbours differ on average, above 6 levels."""
    return keras.ops.mean(keras.ops.abs(x[:, :, 1:] - x[:, :, :-1]), (1, 2, 3)) - 6


def light(x: keras.KerasTensor) -> keras.KerasTensor:
    """The mean level above 150."""
    return keras.ops.mean(x, (1, 2, 3)) - 150


def lead_of_the_left(x: keras.KerasTensor) -> keras.KerasTensor:
    """How much brighter the left half is than the right one, above 50 levels."""
    return keras.ops.mean(x[:, :, : SIDE // 2] - x[:, :, SIDE // 2 :], (1, 2, 3)) - 50


TRICKS = {  # two images, and what tells the first from the second until they are disturbed
    "jpeg": (checker(), flat(110), roughness),
    "blur": (checker(), flat(110), roughness),
    "darkness": (flat(200), flat(60), light),
    "rotation": (halves(), flat(110), lead_of_the_left),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_model_that_lives_on_what_a_disturbance_takes_away_fails(name: str, tmp_path: Path) -> None:
    *images, feature = TRICKS[name]
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    score = keras.ops.reshape(feature(keras.ops.cast(pixels, "float32")), (-1, 1))
    made = keras.Model(pixels, keras.ops.softmax(keras.ops.concatenate([score, -score], axis=-1)))
    classifier = gallery.export(made, tmp_path, ("a", "b"), SIDE)
    for label, image in zip("ab", images, strict=True):
        image.save(paths.DATA / f"{label}.png")
    seen = gather(classifier, pd.DataFrame({"path": ["a.png", "b.png"], "label": ["a", "b"]}))
    assert seen.correct.all()
    checks = {check.name: check for check in check_robustness(classifier, seen, promote_params(disturbed_fall=0.4))}
    assert checks[f"robust_{name}"].value == 0.5 and not checks[f"robust_{name}"].passed
    assert checks.keys() == {f"robust_{trick}" for trick in TRICKS}


def test_every_threshold_of_the_params_is_that_of_some_check_and_named_with_it() -> None:
    same = (
        "accuracy",
        "macro_f1",
        "class_recall",
        "calibration_error",
        "latency_ms",
        "size_mb",
        "images",
        "class_fall",
    )
    others = {"slice_size": "slice_accuracy", "robust_jpeg": "disturbed_fall"}
    others |= {"difference": "margin", "mcnemar": "significance"}
    named = {Check(name, 0, 1, False, "").key for name in (*same, *others)}
    assert named == {f"promote.{key}" for key in (*same, *others.values())}
    assert named | {f"promote.{key}" for key in ("automatic", "families", "slice_images")} == {
        f"promote.{key}" for key in PromoteParams.__dataclass_fields__
    }
    assert Check("formats", 0, 1, False, "").key is None
