"""The checks of a challenger beside the champion, image by image on images that neither was trained on."""

import numpy as np
from numpy.typing import NDArray

from landuse.gate.blessing import Check, counted
from landuse.gate.evidence import Evidence
from landuse.params import PromoteParams

RESAMPLES = 10_000
SEED = 1
ENDS = (0.025, 0.975)


def check_duel(challenger: Evidence, champion: Evidence, params: PromoteParams) -> list[Check]:
    """McNemar's test, the interval of the difference, and the class that fell furthest; both saw the same images."""
    worse = int((champion.correct & ~challenger.correct).sum())
    better = int((challenger.correct & ~champion.correct).sum())
    chance = mcnemar(better, worse)
    significant = worse > better and chance < params.significance
    tally = f"{better} images right only by this version, {worse} only by the champion (p = {chance:.3f})"
    low, high = interval(challenger.correct.astype(float) - champion.correct)
    scores = {"this": float(challenger.correct.mean()), "champion": float(champion.correct.mean())}
    lead = f"accuracy beside the champion's is {low:+.1%} or better (95 % interval), {-params.margin:+.1%} must be"
    return [
        Check("mcnemar", chance, params.significance, not significant, tally, {"this": better, "champion": worse}),
        Check.at_least("difference", low, -params.margin, lead, scores | {"low": low, "high": high}),
        check_classes(challenger, champion, params),
    ]


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p-value of McNemar's test for the images that only one of two models gets right."""
    from scipy.stats import binomtest

    return float(binomtest(worse, better + worse).pvalue) if better + worse else 1.0


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of paired differences [images] of -1, 0 or 1; the same every time."""
    values, images = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(differences), images / len(differences), RESAMPLES)
    low, high = np.quantile(drawn @ values / len(differences), ENDS)
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
