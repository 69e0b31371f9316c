"""Checks of a challenger against the champion, paired image by image on images that neither was trained on.

Images of one group of near-duplicates are not independent, so the statistics treat each group as one scene.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from landuse.gate.blessing import Check, json_number
from landuse.gate.scoring import ScoredImages
from landuse.params import PromoteParams

RESAMPLES = 10_000
SEED = 1
QUANTILES = (0.025, 0.975)


def check_comparison(
    challenger: ScoredImages, champion: ScoredImages, params: PromoteParams, same_data: bool
) -> list[Check]:
    """Check that a version is not worse than the champion, nor less sure, and whether it is better.

    Both models must have been scored on the same images. With `same_data`, the champion was trained on the data of the
    version: then only a better one replaces it, or equal models would replace each other for ever.
    """
    result = paired_difference(challenger, champion)
    significant = result.losses > result.wins and result.p_value < params.significance
    only_champion = f"only by the champion: {result.losses} ({format_p_value(result.p_value)})"
    tally = f"images, near-duplicates counted once, right only by this version: {result.wins}, {only_champion}"
    counts = {"this": result.wins, "champion": result.losses}
    scores = {"this": float(challenger.correct.mean()), "champion": float(champion.correct.mean())}
    least = f"{0 - params.margin:+.1%} must be"
    lead = f"accuracy beside the champion's is {result.low:+.1%} or better (95 % interval), {least}"
    ends = {"low": result.low, "high": result.high}
    return [
        Check("mcnemar", result.p_value, params.significance, not significant, tally, counts),
        Check.at_least("difference", result.low, -params.margin, lead, scores | ends),
        check_class_fall(challenger, champion, params),
        check_coverage(challenger, champion, params),
        check_better(result, params, same_data),
    ]


def check_better(result: "PairedDifference", params: PromoteParams, same_data: bool) -> Check:
    """Check that a version is better than the champion by McNemar's test, if it must be."""
    better = result.wins > result.losses and result.p_value < params.significance
    need = "it must be (promote.requires)" if params.requires == "better" else "not worse is enough (promote.requires)"
    if same_data:
        need = "it must be, as the champion was trained on the same data"
    sentence = f"{'better' if better else 'not better'} than the champion ({format_p_value(result.p_value)}); {need}"
    passed = better or not (same_data or params.requires == "better")
    return Check("better", json_number(result.p_value), params.significance, passed, sentence, {"better": better})


def check_coverage(challenger: ScoredImages, champion: ScoredImages, params: PromoteParams) -> Check:
    """Check how far the share of images falls that the model is sure of."""
    now, before = challenger.coverage, champion.coverage
    if now is None or before is None:
        return Check.without_object("coverage_fall", "a model without a confidence below which it is unsure")
    sentence = f"it is sure of {now:.1%} of the images, the champion of {before:.1%}"
    most = f"the share may fall by {params.max_coverage_fall:.1%}"
    shares = {"this": now, "champion": before}
    return Check.at_most("coverage_fall", before - now, params.max_coverage_fall, f"{sentence}; {most}", shares)


@dataclass(frozen=True)
class PairedDifference:
    """Difference between two models on the same images.

    `wins` and `losses` count the scenes on which only the first or only the second model is right (more often), with
    the `p_value` of McNemar's test. `low` and `high` are the ends of the 95 % interval of the accuracy difference.
    """

    wins: int
    losses: int
    p_value: float
    low: float
    high: float


def paired_difference(model: ScoredImages, other: ScoredImages) -> PairedDifference:
    """Compare a model with another one, both scored on the same images."""
    differences, groups = model.correct.astype(float) - other.correct, model.table["group"]
    scenes = pd.Series(differences).groupby(groups.to_numpy()).sum()
    wins, losses = int((scenes > 0).sum()), int((scenes < 0).sum())
    return PairedDifference(wins, losses, mcnemar(wins, losses), *bootstrap_interval(differences, groups))


def mcnemar(wins: int, losses: int) -> float:
    """Compute the exact two-sided p-value of McNemar's test from the two discordant counts."""
    from scipy.stats import binomtest

    return float(binomtest(losses, wins + losses).pvalue) if wins + losses else 1.0


def format_p_value(p_value: float) -> str:
    """Format a p-value such as `p = 0.031`; it is never shown as zero."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def bootstrap_interval(differences: NDArray[np.float64], groups: ArrayLike) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of the mean of paired differences [images] of -1, 0 or 1.

    It resamples whole groups [images] of near-duplicates, with a fixed seed.
    """
    scenes = pd.Series(differences).groupby(np.asarray(groups)).agg(["sum", "size"]).to_numpy(float)
    # Scenes with equal sum and size are interchangeable: resampling their counts keeps memory flat.
    values, counts = np.unique(scenes, axis=0, return_counts=True)
    samples = np.random.default_rng(SEED).multinomial(len(scenes), counts / len(scenes), RESAMPLES)
    sums, sizes = (samples @ values).T
    low, high = np.quantile(sums / sizes, QUANTILES)
    return float(low), float(high)


def check_class_fall(challenger: ScoredImages, champion: ScoredImages, params: PromoteParams) -> Check:
    """Check that the recall of no class drops too far."""
    now, before = challenger.recall, champion.recall
    drops: pd.Series[float] = before - now
    worst = str(drops.idxmax())
    falls = now[worst] < before[worst]
    most = f"recall of {worst} falls most, from {before[worst]:.1%} to {now[worst]:.1%}"
    sentence = f"{most if falls else 'recall falls in no class'}; it may fall by {params.max_class_fall:.1%}"
    recalls = {label: {"this": json_number(now[label]), "champion": json_number(before[label])} for label in now.index}
    return Check.at_most("class_fall", drops[worst], params.max_class_fall, sentence, recalls)
