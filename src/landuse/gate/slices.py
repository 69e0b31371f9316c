"""Slices: accuracy on subsets of the images, such as the dark, the low-contrast and the easily confused ones."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ImageStat

from landuse.gate.blessing import Check
from landuse.gate.scoring import ScoredImages
from landuse.ml.images import decode, parallel_map, to_upright_rgb
from landuse.params import PromoteParams

Slices = dict[str, NDArray[np.bool_]]  # slice name → mask [images]


def check_slices(scored: ScoredImages, params: PromoteParams) -> list[Check]:
    """Make one check per way to slice: by brightness, contrast, image size and class family."""
    measures = pd.DataFrame(list(parallel_map(measure, scored.images)))
    slicings: dict[str, Slices] = {
        "brightness": terciles(measures["brightness"], ("dark", "medium", "bright")),
        "contrast": terciles(measures["contrast"], ("faint", "medium", "strong")),
        "size": by_size(measures["size"]),
        "families": by_family(scored, params.families),
    }
    return [check_slicing(f"slice_{name}", slices, scored.correct, params) for name, slices in slicings.items()]


def measure(path: Path) -> dict[str, float | tuple[int, int]]:
    """Measure the mean and standard deviation of an image's grey levels (0-255), and its size."""
    with decode(path) as image:
        levels = ImageStat.Stat(to_upright_rgb(image).convert("L"))
        return {"brightness": levels.mean[0], "contrast": levels.stddev[0], "size": image.size}


def terciles(values: pd.Series, names: tuple[str, str, str]) -> Slices:
    """Slice the images into the lowest, the middle and the highest third of the values."""
    third = np.argsort(np.argsort(values.to_numpy(), kind="stable"), kind="stable") * 3 // len(values)
    return {name: third == index for index, name in enumerate(names)}


def by_size(sizes: pd.Series) -> Slices:
    """Slice the images into those of the most frequent size, and the others."""
    usual = (sizes == sizes.mode().iloc[0]).to_numpy()
    return {"usual": usual, "unusual": ~usual}


def by_family(scored: ScoredImages, families: tuple[tuple[str, ...], ...]) -> Slices:
    """Slice the images by families of classes."""
    return {"/".join(family): scored.table["label"].isin(family).to_numpy() for family in families}


def check_slicing(name: str, slices: Slices, correct: NDArray[np.bool_], params: PromoteParams) -> Check:
    """Check the accuracy of the worst slice; slices with too few images do not count."""
    judged = {part: mask for part, mask in slices.items() if mask.sum() >= params.min_slice_images}
    accuracies = {part: float(correct[mask].mean()) for part, mask in judged.items()}
    detail = {part: slice_figures(correct[mask]) for part, mask in slices.items() if mask.any()}
    if not slices:
        return Check.without_object(name, "no families are named (promote.families)")
    if not accuracies:
        return Check.without_object(name, f"no slice has {params.min_slice_images} images", detail)
    worst = min(accuracies, key=accuracies.__getitem__)
    each = ", ".join(describe_slice(part, mask, accuracies) for part, mask in slices.items())
    sentence = f"{each}; {params.min_slice_accuracy:.1%} at least"
    return Check.at_least(name, accuracies[worst], params.min_slice_accuracy, sentence, detail)


def slice_figures(correct: NDArray[np.bool_]) -> dict[str, float]:
    """Return the number of images of a slice and the accuracy on them."""
    return {"images": len(correct), "accuracy": float(correct.mean())}


def describe_slice(part: str, mask: NDArray[np.bool_], accuracies: dict[str, float]) -> str:
    """Describe the accuracy of a slice, or that it has too few images."""
    return f"{part} {accuracies[part]:.1%}" if part in accuracies else f"{part}: too few images ({mask.sum()})"
