"""Choices: values of `params.yaml` that fit the images of a survey, each with the reason for it."""

from math import ceil, floor, sqrt
from typing import Any, NamedTuple

from landuse.init.survey import Survey
from landuse.init.weights import Weights

KEPT = 0.8  # share of what is there now that an update must still have
ROOM = 1.25  # how much more unbalanced the classes may become
SIDES = (96, 224)  # smallest and largest input of the network that is proposed; Keras' weights are for 224
STEP = 32
SHARES = (0.05, 0.2)  # smallest and largest share of the images for validation, and for the test
ENOUGH, ENOUGH_OF_CLASS = 2000, 20  # images in such a subset, beyond which more of them tell little more
DISAGREEMENT = 0.1  # share of images on which two trained models usually disagree
ERRORS = 2.0  # standard errors that a limit allows for
LEAST_FALL = 0.05  # of the share of sure answers, which differs by some percent between two trainings
LOOSE = {  # absolute limits that say little until there is a model to measure: landuse thresholds proposes better ones
    "min_accuracy": 0.5,
    "min_macro_f1": 0.5,
    "min_class_recall": 0.0,
    "min_slice_accuracy": 0.3,
    "max_calibration_error": 0.2,
    "max_disturbed_fall": 0.3,
}


class Choice(NamedTuple):
    """A value of `params.yaml`, and why it was chosen."""

    section: str
    key: str
    value: Any
    why: str


def choose(found: Survey, source: str, name: str, weights: Weights) -> list[Choice]:
    """Return the choices for surveyed images from a source, for a model of a name, with weights of the backbone."""
    return [
        Choice("data", "source", source, "as given"),
        *choose_checks(found),
        *choose_network(found, weights),
        Choice("split", "validation", share(found), f"about {count_held_out(found):,} images choose the best epoch"),
        Choice("split", "test", share(found), f"about {count_held_out(found):,} others are for the final score"),
        Choice("register", "model", name, "the name in the registry"),
        *choose_gate(found),
    ]


def choose_checks(found: Survey) -> list[Choice]:
    """Return what validation expects of the images from now on."""
    counts = sorted(found.classes.values())
    label = min(found.classes, key=lambda each: (found.classes[each], each))
    ratio = counts[-1] / counts[0]
    (width, height), usual = found.sizes.most_common(1)[0]
    smallest = min(min(size) for size in found.sizes)
    return [
        Choice("validate", "classes", sorted(found.classes), f"{len(found.classes)} folders"),
        Choice("validate", "images_per_class", floor(KEPT * counts[0]), f"four fifths of {label}, {counts[0]:,}"),
        Choice(
            "validate", "imbalance", ceil(10 * ROOM * ratio) / 10, f"{ratio:.1f} between the largest and smallest class"
        ),
        Choice("validate", "modes", sorted(found.modes), "the modes that occur"),
        Choice("validate", "size", max(width, height), f"{usual:,} of {found.images:,} images are {width} × {height}"),
        Choice("validate", "smallest", floor(KEPT * smallest), f"four fifths of the shortest side, {smallest}"),
    ]


def choose_network(found: Survey, weights: Weights) -> list[Choice]:
    """Return the input size that fits the images, and the weights."""
    side = input_side(found)
    usual = max(found.sizes.most_common(1)[0][0])
    why = "Keras' weights are for 224 pixels" if side == SIDES[1] else f"near the {usual} pixels of the images"
    return [Choice("extract", "image_size", side, why), Choice("extract", "weights", *weights)]


def input_side(found: Survey) -> int:
    """Return the side of the network's input that is nearest to the usual size of the images."""
    usual = max(found.sizes.most_common(1)[0][0])
    return min(max(STEP * round(usual / STEP), SIDES[0]), SIDES[1])


def share(found: Survey) -> float:
    """Return the share of the images to validate with, and to test with: a fifth, or less where that is plenty."""
    wanted = max(ENOUGH / found.images, ENOUGH_OF_CLASS / min(found.classes.values()))
    return min(max(ceil(100 * wanted) / 100, SHARES[0]), SHARES[1])


def count_held_out(found: Survey) -> int:
    """Return about how many images the test subset has."""
    return round(share(found) * found.images)


def choose_gate(found: Survey) -> list[Choice]:
    """Return limits of the gate that fit the number of held-out images."""
    held_out, smallest = count_held_out(found), max(1, round(share(found) * min(found.classes.values())))
    margin = ceil(100 * ERRORS * sqrt(DISAGREEMENT / held_out)) / 100
    fall = min(1.0, ceil(20 * ERRORS * sqrt(2 * DISAGREEMENT * (1 - DISAGREEMENT) / smallest)) / 20)
    provisional = "loose, until landuse thresholds measures the first model"
    return [
        Choice("promote", "min_images", floor(KEPT * held_out), f"four fifths of the {held_out:,} held-out images"),
        *(Choice("promote", key, value, provisional) for key, value in LOOSE.items()),
        Choice("promote", "min_slice_images", min(15, max(5, held_out // 20)), "a twentieth of them, 15 at most"),
        Choice("promote", "families", [], "none are known before the first training; then landuse thresholds proposes"),
        Choice("promote", "margin", min(1.0, margin), f"two standard errors of a difference on {held_out:,} images"),
        Choice("promote", "max_coverage_fall", max(LEAST_FALL, min(1.0, margin)), f"the same, {LEAST_FALL} at least"),
        Choice("promote", "max_class_fall", fall, f"the same on {smallest:,} held-out images of the smallest class"),
    ]
