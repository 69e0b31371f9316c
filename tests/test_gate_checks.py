"""Tests of the gate's checks on made-up predictions and images."""

import subprocess
import sys
from dataclasses import replace
from math import comb
from pathlib import Path
from types import SimpleNamespace

import gallery
import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from landuse import registry, tracking
from landuse.core import paths
from landuse.gate import check_image_count, shrinkage, thresholds
from landuse.gate.blessing import Check
from landuse.gate.comparison import bootstrap_interval, check_comparison, mcnemar, paired_difference
from landuse.gate.robustness import check_robustness
from landuse.gate.scoring import ScoredImages, score_images, score_version
from landuse.gate.slices import check_slices
from landuse.gate.thresholds import check_budgets, check_scores
from landuse.ml.classifier import Classifier
from landuse.params import PromoteParams, load_params

SIDE = 256


@pytest.fixture(autouse=True)
def in_use(registry_copy: Path) -> None:
    """Give every test its own project and registry."""


def promote_params(**changes: object) -> PromoteParams:
    return replace(load_params().promote, **changes)


def scored_images(correct: list[int], labels: list[str] | None = None, groups: list[int] | None = None) -> ScoredImages:
    """Score images as correct (1) or as the other of two classes (0); each is its own group unless groups are given."""
    names = ["a", "b"]
    actual = np.array([names.index(label) for label in labels or ["a"] * len(correct)])
    probabilities = np.eye(2, dtype=np.float32)[np.where(correct, actual, 1 - actual)]
    table = pd.DataFrame({"label": np.array(names)[actual], "group": groups or range(len(correct))})
    return ScoredImages(table, names, actual, probabilities)


def test_a_value_on_the_threshold_passes_despite_rounding_errors() -> None:
    assert Check.at_most("fall", 0.8 - 0.6, 0.2, "").passed and Check.at_least("gain", 0.6 - 0.8, -0.2, "").passed
    assert not Check.at_most("fall", 0.2001, 0.2, "").passed
    nothing = Check.at_most("fall", float("nan"), 0.2, "")
    assert not nothing.passed and nothing.value is None


def compare(challenger: list[int], champion: list[int], **changes: object) -> dict[str, Check]:
    models = (scored_images(challenger), scored_images(champion))
    checks = check_comparison(*models, promote_params(**changes), same_data=False)
    return {check.name: check for check in checks}


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 3), (1, 6), (10, 2), (0, 40)])
def test_mcnemar_equals_the_exact_binomial_test_computed_by_hand(better: int, worse: int) -> None:
    count, fewer = better + worse, min(better, worse)
    tail = sum(comb(count, number) for number in range(fewer + 1)) / 2**count
    assert mcnemar(better, worse) == pytest.approx(min(1, 2 * tail))


def test_a_lead_of_the_champion_fails_once_it_is_significant() -> None:
    assert compare([0] * 5 + [1] * 95, [1] * 100)["mcnemar"].passed, "p is 0.0625"
    assert not compare([0] * 6 + [1] * 94, [1] * 100)["mcnemar"].passed, "p is 0.031"
    assert compare([1] * 100, [0] * 6 + [1] * 94)["mcnemar"].passed, "the lead is the challenger's"


def test_near_duplicates_count_as_one_scene_in_the_statistics() -> None:
    shared_group, champion = [0] * 7 + list(range(1, 94)), scored_images([1] * 100)
    apart, together = (
        paired_difference(scored_images([0] * 7 + [1] * 93, groups=groups), champion) for groups in (None, shared_group)
    )
    assert (apart.wins, apart.losses, together.wins, together.losses) == (0, 7, 0, 1)
    assert apart.p_value == pytest.approx(2 * 0.5**7) and together.p_value == 1
    assert together.low < apart.low < 0 and together.high == 0


def test_the_lead_counts_scenes_not_images() -> None:
    ten_scenes, one_scene = [1] * 10 + [0] * 12 + [1] * 78, [0] * 10 + [1] * 12 + [1] * 78
    groups = [*range(10), *[10] * 12, *range(11, 89)]
    leader, other = (scored_images(correct, groups=groups) for correct in (ten_scenes, one_scene))
    checks = [
        check_comparison(*pair, promote_params(), same_data=False)[0] for pair in ((leader, other), (other, leader))
    ]
    assert [check.passed for check in checks] == [True, False] and checks[0].value == pytest.approx(0.012, abs=0.001)
    assert "right only by this version: 1, only by the champion: 10 (p = 0.012)" in checks[1].sentence


def test_the_interval_matches_the_normal_approximation_and_is_deterministic() -> None:
    differences = np.repeat([1.0, 0.0, -1.0], [40, 320, 40])
    low, high = bootstrap_interval(differences, range(400))
    expected = 1.96 * differences.std() / np.sqrt(len(differences))
    assert (low, high) == (pytest.approx(-expected, abs=0.004), pytest.approx(expected, abs=0.004))
    assert bootstrap_interval(differences, range(400)) == (low, high)
    many, _ = bootstrap_interval(np.repeat(differences, 1000), range(400_000))
    assert many == pytest.approx(-expected / np.sqrt(1000), rel=0.05), "memory does not grow with the images"


def test_with_few_images_the_interval_is_too_wide_even_for_equal_models() -> None:
    assert not compare([0, 1] * 10, [1, 0] * 10, margin=0.1)["difference"].passed
    assert compare([0, 1] * 10 + [1] * 480, [1, 0] * 10 + [1] * 480, margin=0.1)["difference"].passed


def test_a_margin_of_zero_is_not_shown_as_negative() -> None:
    assert compare([0, 1] * 10, [1, 0] * 10, margin=0.0)["difference"].sentence.endswith("+0.0% must be")


def test_a_drop_in_one_class_fails_although_accuracy_rises() -> None:
    labels = ["a"] * 90 + ["b"] * 10
    before, after = (
        scored_images([1] * 60 + [0] * 30 + [1] * 10, labels),
        scored_images([1] * 90 + [0] * 4 + [1] * 6, labels),
    )
    check = check_comparison(after, before, promote_params(max_class_fall=0.3), same_data=False)[2]
    assert not check.passed and check.value == pytest.approx(0.4) and "recall of b" in check.sentence


def slice_checks(correct: list[int], sizes: list[tuple[int, int]], levels: list[int], **changes: object) -> dict:
    """Check the slices of uniform grey images of these sizes and levels."""
    for index, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        Image.new("RGB", size, (level,) * 3).save(paths.DATA / f"{index:03}.png")
    scored = scored_images(correct)
    scored.table["path"] = [f"{index:03}.png" for index in range(len(correct))]
    return {check.name: check for check in check_slices(scored, promote_params(families=(("a", "b"),), **changes))}


def test_the_slice_of_dark_images_can_fail_alone() -> None:
    checks = slice_checks([0] * 10 + [1] * 20, [(8, 8)] * 30, list(range(30)), min_slice_accuracy=0.6)
    assert {name for name, check in checks.items() if not check.passed} == {"slice_brightness", "slice_contrast"}, (
        "flat images all have the contrast 0"
    )
    assert checks["slice_brightness"].value == 0 and "dark 0.0%, medium 100.0%" in checks["slice_brightness"].sentence


def test_images_of_unusual_sizes_count_once_there_are_enough() -> None:
    sizes, correct = [(8, 8)] * 30 + [(9, 8)] * 12, [1] * 30 + [0] * 12
    few = slice_checks(correct, sizes, [9] * 42, min_slice_images=13)["slice_size"]
    enough = slice_checks(correct, sizes, [9] * 42, min_slice_images=12)["slice_size"]
    assert few.passed and "unusual: too few images (12)" in few.sentence
    assert not enough.passed and enough.value == 0


def test_a_check_that_has_nothing_to_judge_neither_passes_nor_fails() -> None:
    check = slice_checks([0] * 6, [(8, 8)] * 6, [9] * 6)["slice_size"]
    assert (check.value, check.outcome, check.sentence) == (None, "not judged", "not judged: no slice has 10 images")
    assert not check.passed and not check.failed and str(check).startswith("-       slice_size")
    scored = scored_images([1])
    Image.new("RGB", (8, 8)).save(paths.DATA / "a.png")
    scored.table["path"] = "a.png"
    families = check_slices(scored, promote_params(families=()))[-1]
    assert families.outcome == "not judged" and "no families are named" in families.sentence


@pytest.mark.parametrize(
    ("challenger", "champion", "standing", "outcomes"),
    [  # outcomes of the check: by default, if a better one is required, if the data are the same
        ([1] * 100, [1] * 100, "not better", ("passed", "failed", "failed")),
        ([1] * 95 + [0] * 5, [1] * 90 + [0] * 10, "not better", ("passed", "failed", "failed")),
        ([1] * 96 + [0] * 4, [1] * 90 + [0] * 10, "better", ("passed", "passed", "passed")),
        ([1] * 90 + [0] * 10, [1] * 96 + [0] * 4, "not better", ("passed", "failed", "failed")),
    ],
)
def test_a_version_must_be_better_if_that_is_required_or_the_data_are_the_same(
    challenger: list[int], champion: list[int], standing: str, outcomes: tuple[str, str, str]
) -> None:
    models = (scored_images(challenger), scored_images(champion))
    for (requires, same_data), outcome in zip(
        (("not_worse", False), ("better", False), ("not_worse", True)), outcomes, strict=True
    ):
        check = check_comparison(*models, promote_params(requires=requires), same_data)[-1]
        assert (check.name, check.outcome) == ("better", outcome)
        assert check.sentence.startswith(f"{standing} than the champion (p ")


def with_confidence(confidence: list[float], unsure_below: float | None) -> ScoredImages:
    """Return right predictions with the given confidences."""
    scored = scored_images([1] * len(confidence))
    sure = np.array(confidence, np.float32)
    return replace(scored, probabilities=np.stack([sure, 1 - sure], axis=1), unsure_below=unsure_below)


def test_a_model_that_is_sure_of_fewer_images_than_the_champion_fails() -> None:
    champion, challenger = with_confidence([0.9] * 9 + [0.6], 0.8), with_confidence([0.9] * 7 + [0.6] * 3, 0.8)
    for limit, outcome in ((0.1, "failed"), (0.2, "passed")):
        params = promote_params(max_coverage_fall=limit)
        check = check_comparison(challenger, champion, params, same_data=False)[3]
        assert (check.name, check.value, check.outcome) == ("coverage_fall", pytest.approx(0.2), outcome)
    assert "it is sure of 70.0% of the images, the champion of 90.0%; the share may fall by 20.0%" in check.sentence
    older = with_confidence([0.9] * 10, None)
    assert check_comparison(challenger, older, params, same_data=False)[3].outcome == "not judged"


@pytest.mark.parametrize(
    ("now", "share", "words"),
    [
        ({"a": 50, "b": 50}, 0.0, "as many images as the 100 images of the champion's data"),
        ({"a": 90, "b": 60, "c": 9}, 0.0, "59 more than the 100 images of the champion's data, class c new"),
        ({"a": 50, "b": 30}, 0.2, "20 fewer than the 100 images of the champion's data"),
        ({"a": 200}, 1.0, "100 more than the 100 images of the champion's data, class b gone"),
    ],
)
def test_data_that_shrank_since_the_champion_is_told_and_refused(
    now: dict[str, int], share: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"new": now, "old": {"a": 50, "b": 50}}
    labels = {name: [label for label, n in each.items() for _ in range(n)] for name, each in counts.items()}
    monkeypatch.setattr(shrinkage, "read_splits", lambda version: pd.DataFrame({"label": labels[version]}))
    check = shrinkage.check_shrinkage("new", "old", promote_params(max_shrinkage=0.1))
    assert check.value == pytest.approx(share) and check.passed == (share <= 0.1)
    assert check.sentence == f"{words}; images may be fewer by 10.0%"


def checkerboard() -> Image.Image:
    return Image.fromarray((np.indices((SIDE, SIDE)).sum(0) % 2 * 12 + 100).astype(np.uint8)).convert("RGB")


def flat(level: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (level,) * 3)


def halves() -> Image.Image:
    image = flat(200)
    image.paste((20, 20, 20), (SIDE // 2, 0, SIDE, SIDE))
    return image


def roughness(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the mean difference of horizontal neighbours, minus 6 levels."""
    return keras.ops.mean(keras.ops.abs(x[:, :, 1:] - x[:, :, :-1]), (1, 2, 3)) - 6


def brightness(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return the mean level minus 150."""
    return keras.ops.mean(x, (1, 2, 3)) - 150


def left_right_difference(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return how much brighter the left half is than the right one, minus 50 levels."""
    return keras.ops.mean(x[:, :, : SIDE // 2] - x[:, :, SIDE // 2 :], (1, 2, 3)) - 50


FRAGILE_FEATURES = {  # two images, and a feature that tells them apart until they are disturbed
    "jpeg": (checkerboard(), flat(110), roughness),
    "blur": (checkerboard(), flat(110), roughness),
    "darkness": (flat(200), flat(60), brightness),
    "rotation": (halves(), flat(110), left_right_difference),
}


@pytest.mark.parametrize("name", FRAGILE_FEATURES)
def test_a_model_relying_on_a_feature_that_a_disturbance_removes_fails(name: str, tmp_path: Path) -> None:
    *images, feature = FRAGILE_FEATURES[name]
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    score = keras.ops.reshape(feature(keras.ops.cast(pixels, "float32")), (-1, 1))
    model = keras.Model(pixels, keras.ops.softmax(keras.ops.concatenate([score, -score], axis=-1)))
    classifier = gallery.export(model, tmp_path, ("a", "b"), SIDE)
    for label, image in zip("ab", images, strict=True):
        image.save(paths.DATA / f"{label}.png")
    scored = score_images(classifier, pd.DataFrame({"path": ["a.png", "b.png"], "label": ["a", "b"]}))
    assert scored.correct.all()
    params = promote_params(max_disturbed_fall=0.4)
    checks = {check.name: check for check in check_robustness(classifier, scored, params)}
    assert checks[f"robust_{name}"].value == 0.5 and not checks[f"robust_{name}"].passed
    assert checks.keys() == {f"robust_{each}" for each in FRAGILE_FEATURES}


WITHOUT_DOCSTRINGS = """
from types import SimpleNamespace
import mlflow.data.sources
mlflow.data.sources.LocalArtifactDatasetSource = object  # MLflow cannot create this class without docstrings
import numpy as np
import pandas as pd
from PIL import Image
from landuse.core.paths import DATA
from landuse.gate.robustness import check_robustness
from landuse.gate.scoring import ScoredImages

Image.new("RGB", (8, 8)).save(DATA / "a.png")
scored = ScoredImages(pd.DataFrame({"path": ["a.png"]}), ["a", "b"], np.array([0]), np.array([[1.0, 0.0]], np.float32))
classifier = SimpleNamespace(probabilities=lambda image: np.array([0.0, 1.0]))
for check in check_robustness(classifier, scored, SimpleNamespace(max_disturbed_fall=0.5)):
    print(check.sentence)
"""


@pytest.mark.slow
def test_robustness_checks_work_without_docstrings() -> None:
    command = [sys.executable, "-OO", "-c", WITHOUT_DOCSTRINGS]
    done = subprocess.run(command, capture_output=True, text=True, env=tiny.WITHOUT_BYTECODE)
    drop = "accuracy goes from 100.0% to 0.0%, it may fall by 50.0%"
    how = ("as JPEG of quality 50", "blurred by one pixel in 256", "with 70 % of the light", "turned by a quarter")
    assert done.stdout.splitlines() == [f"images {each}: {drop}" for each in how], done.stderr


LENIENT = {
    "min_accuracy": 0.0, "min_macro_f1": 0.0, "min_class_recall": 0.0, "max_calibration_error": 1.0,
    "max_latency_ms": 1e6, "max_size_mb": 1e6, "min_slice_accuracy": 0.0, "max_disturbed_fall": 1.0, "min_images": 1,
    "significance": 0.0, "margin": 1.0, "max_class_fall": 1.0, "max_coverage_fall": 1.0, "requires": "not_worse",
}  # fmt: skip
IMPOSSIBLE = {  # by key: a threshold that fails its checks, and which these are
    "min_accuracy": (1.1, {"accuracy"}),
    "min_macro_f1": (1.2, {"macro_f1"}),
    "min_class_recall": (1.3, {"class_recall"}),
    "max_calibration_error": (-1.1, {"calibration_error"}),
    "max_latency_ms": (-1.2, {"latency_ms"}),
    "max_size_mb": (-1.3, {"size_mb"}),
    "min_slice_accuracy": (1.4, {"slice_brightness", "slice_contrast", "slice_size", "slice_families"}),
    "max_disturbed_fall": (-1.4, {f"robust_{each}" for each in FRAGILE_FEATURES}),
    "min_images": (13, {"images"}),
    "significance": (1.5, {"mcnemar"}),
    "margin": (-1.5, {"difference"}),
    "max_class_fall": (-1.6, {"class_fall"}),
    "max_coverage_fall": (-1.7, {"coverage_fall"}),
}


def test_every_threshold_decides_on_the_checks_of_its_key_and_on_no_others() -> None:
    with tracking.store():
        confused, good = (registry.get_version(gallery.NAME, number) for number in ("2", "1"))
        classifier, challenger = score_version(confused, Path("challenger"))
        champion = score_version(good, Path("champion"))[1]
    few = np.arange(60) % 5 == 0
    challenger, champion, evaluation = challenger.select(few), champion.select(few), load_params().evaluate
    for key, (threshold, names) in IMPOSSIBLE.items():
        changes = {**LENIENT, "families": (("field", "water"),), "min_slice_images": 1, key: threshold}
        params = SimpleNamespace(**changes)  # `PromoteParams` allows no impossible threshold
        checks = [
            *check_scores(challenger, params, evaluation),
            *check_budgets(classifier, challenger, params, evaluation),
            *check_slices(challenger, params),
            *check_robustness(classifier, challenger, params),
            *check_comparison(challenger, champion, params, same_data=False),
            check_image_count(len(challenger.table), params, ""),
        ]
        failed = [check for check in checks if not check.passed]
        assert {check.name for check in failed} == names, key
        assert {check.threshold_key for check in failed} == {f"promote.{key}"}
        assert {check.threshold for check in failed} == {-threshold if key == "margin" else threshold}
        assert {check.name for check in checks} == {"better"}.union(*(names for _, names in IMPOSSIBLE.values()))


def test_the_latency_is_the_median_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "measure_latencies", lambda *_: np.array([1.0, 20.0, 300.0]))
    params = promote_params(max_latency_ms=19)
    scored = scored_images([1])
    scored.table["path"] = "a.png"
    check = check_budgets(Classifier(gallery.GOOD), scored, params, load_params().evaluate)[0]
    assert check.value == 20 and not check.passed


def test_every_threshold_in_params_belongs_to_a_check() -> None:
    others = {"automatic", "requires", "families", "min_slice_images", "max_shrinkage"}
    assert {*IMPOSSIBLE} | others == {*PromoteParams.__dataclass_fields__}
    assert Check("formats", 0, 1, False, "").threshold_key is None
