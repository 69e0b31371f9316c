"""The checks of a challenger beside the champion, image by image on images that neither was trained on.

Images that look alike are one scene: what one of them says the others say too, so that they are one vote where chance
is judged.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from landuse.gate.blessing import Check, counted
from landuse.gate.scoring import Evidence
from landuse.params import PromoteParams

RESAMPLES = 10_000
SEED = 1
ENDS = (0.025, 0.975)


def check_duel(challenger: Evidence, champion: Evidence, params: PromoteParams) -> list[Check]:
    """McNemar's test, the interval of the difference, and the class that fell furthest; both saw the same images."""
    odds = weigh(challenger, champion)
    significant = odds.worse > odds.better and odds.chance < params.significance
    only_champion = f"only by the champion: {odds.worse} ({p_value(odds.chance)})"
    tally = f"images, look-alikes as one, right only by this version: {odds.better}, {only_champion}"
    counts = {"this": odds.better, "champion": odds.worse}
    scores = {"this": float(challenger.correct.mean()), "champion": float(champion.correct.mean())}
    least = f"{0 - params.margin:+.1%} must be"
    lead = f"accuracy beside the champion's is {odds.low:+.1%} or better (95 % interval), {least}"
    return [
        Check("mcnemar", odds.chance, params.significance, not significant, tally, counts),
        Check.at_least("difference", odds.low, -params.margin, lead, scores | {"low": odds.low, "high": odds.high}),
        check_classes(challenger, champion, params),
    ]


@dataclass(frozen=True)
class Odds:
    """How many scenes only one of two models gets right, whether that is chance, and by how much accuracy differs.

    `better` and `worse` count scenes, `chance` is the p-value, `low` to `high` the 95 % interval of the difference.
    """

    better: int
    worse: int
    chance: float
    low: float
    high: float


def weigh(model: Evidence, other: Evidence) -> Odds:
    """One model beside another on the same images."""
    differences, groups = model.correct.astype(float) - other.correct, model.table["group"]
    scenes = pd.Series(differences).groupby(groups.to_numpy()).sum()
    better, worse = int((scenes > 0).sum()), int((scenes < 0).sum())
    return Odds(better, worse, mcnemar(better, worse), *interval(differences, groups))


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p-value of McNemar's test for the scenes that only one of two models gets right."""
    from scipy.stats import binomtest

    return float(binomtest(worse, better + worse).pvalue) if better + worse else 1.0


def p_value(chance: float) -> str:
    """A p-value in words, such as `p = 0.031`; never as zero."""
    return "p < 0.001" if chance < 0.001 else f"p = {chance:.3f}"


def interval(differences: NDArray[np.float64], groups: ArrayLike) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of paired differences [images] of -1, 0 or 1; the same every time.

    Whole groups [images] of what looks alike are drawn.
    """
    scenes = pd.Series(differences).groupby(np.asarray(groups)).agg(["sum", "size"]).to_numpy(float)
    values, counts = np.unique(scenes, axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(scenes), counts / len(scenes), RESAMPLES)
    sums, sizes = (drawn @ values).T
    low, high = np.quantile(sums / sizes, ENDS)
    return float(low), float(high)


def check_classes(challenger: Evidence, champion: Evidence, params: PromoteParams) -> Check:
    """No class may fall too far."""
    now, before = challenger.recall, champion.recall
    worst = (before - now).idxmax()
    falls = now[worst] < before[worst]
    most = f"recall of {worst} falls most, from {before[worst]:.1%} to {now[worst]:.1%}"
    sentence = f"{most if falls else 'recall falls in no class'}; it may fall by {params.class_fall:.1%}"
    recalls = {label: {"this": counted(now[label]), "champion": counted(before[label])} for label in now.index}
    return Check.at_most("class_fall", before[worst] - now[worst], params.class_fall, sentence, recalls)
