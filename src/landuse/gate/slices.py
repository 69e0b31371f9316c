"""Slices: is a version as good on the dark, the faint, the odd-sized and the easily confused images."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ImageStat

from landuse.gate.blessing import Check
from landuse.gate.scoring import Evidence
from landuse.ml.images import decode, map_ahead, upright
from landuse.params import PromoteParams

Slices = dict[str, NDArray[np.bool_]]


def check_slices(evidence: Evidence, params: PromoteParams) -> list[Check]:
    """One check per way to cut: brightness, contrast, size of the image, and families of classes."""
    looks = pd.DataFrame(list(map_ahead(look, evidence.images)))
    cuts: dict[str, Slices] = {
        "brightness": thirds(looks["brightness"], ("dark", "medium", "bright")),
        "contrast": thirds(looks["contrast"], ("faint", "medium", "strong")),
        "size": sizes(looks["size"]),
        "families": families(evidence, params.families),
    }
    return [check_cut(f"slice_{name}", cut, evidence.correct, params) for name, cut in cuts.items()]


def look(path: Path) -> dict[str, float | tuple[int, int]]:
    """Mean and spread of the grey levels (0-255) of an image, and its size."""
    with decode(path) as image:
        levels = ImageStat.Stat(upright(image).convert("L"))
        return {"brightness": levels.mean[0], "contrast": levels.stddev[0], "size": image.size}


def thirds(values: pd.Series, names: tuple[str, str, str]) -> Slices:
    """The lowest, the middle and the highest third of the images."""
    third = np.argsort(np.argsort(values.to_numpy(), kind="stable"), kind="stable") * 3 // len(values)
    return {name: third == index for index, name in enumerate(names)}


def sizes(values: pd.Series) -> Slices:
    """Images of the most frequent size, and the others."""
    usual = (values == values.mode().iloc[0]).to_numpy()
    return {"usual": usual, "unusual": ~usual}


def families(evidence: Evidence, groups: tuple[tuple[str, ...], ...]) -> Slices:
    """Images of the classes of each family."""
    return {"/".join(group): evidence.table["label"].isin(group).to_numpy() for group in groups}


def check_cut(name: str, cut: Slices, correct: NDArray[np.bool_], params: PromoteParams) -> Check:
    """The worst of the slices that have enough images to be judged."""
    found = {part: correct[rows].mean() for part, rows in cut.items() if rows.sum() >= params.slice_images}
    detail = {part: counts(correct[rows]) for part, rows in cut.items() if rows.any()}
    if not found:
        return Check(
            name, None, params.slice_accuracy, True, f"not judged: no slice has {params.slice_images} images", detail
        )
    worst = min(found, key=found.__getitem__)
    told = ", ".join(words(part, rows, found) for part, rows in cut.items())
    sentence = f"{told}; {params.slice_accuracy:.1%} at least"
    return Check.at_least(name, found[worst], params.slice_accuracy, sentence, detail)


def counts(correct: NDArray[np.bool_]) -> dict[str, float]:
    """How many images a slice has, and how good the version is on them."""
    return {"images": len(correct), "accuracy": float(correct.mean())}


def words(part: str, rows: NDArray[np.bool_], found: dict[str, float]) -> str:
    """One slice: how good, or that it is too small."""
    return f"{part} {found[part]:.1%}" if part in found else f"{part}: too few images ({rows.sum()})"
