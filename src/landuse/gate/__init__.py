"""The gate: is a version good enough to become champion. It looks at images and files, and moves nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from landuse import registry
from landuse.errors import LanduseError
from landuse.gate.alone import check_answer, check_budgets, check_scores
from landuse.gate.blessing import Blessing, Check
from landuse.gate.duel import check_duel
from landuse.gate.evidence import Evidence, gather, held_out_here, splits_of, unseen
from landuse.params import EvaluateParams, PromoteParams

Tell = Callable[[Check], None]


def judge(
    version: ModelVersion, champion: ModelVersion | None, params: PromoteParams, evaluation: EvaluateParams, tell: Tell
) -> Blessing:
    """Look at a version, and beside the champion if there is one; `tell` hears of each check as it is done.

    Raises LanduseError where it cannot be judged: files that are lost or damaged, or another data set in data/.
    """
    checks = []
    for check in every_check(version, champion, params, evaluation):
        tell(check)
        checks.append(check)
    return Blessing(
        model=version.name,
        version=str(version.version),
        champion=None if champion is None else str(champion.version),
        verdict="passed" if all(check.passed for check in checks) else "refused",
        promoted=False,
        forced=False,
        reason=None,
        moment=datetime.now(UTC).isoformat(timespec="seconds"),
        data=version.tags["data.md5"],
        compared_on=next((int(check.value) for check in checks if check.name == "images"), 0),
        checks=tuple(checks),
    )


def every_check(
    version: ModelVersion, champion: ModelVersion | None, params: PromoteParams, evaluation: EvaluateParams
) -> Iterator[Check]:
    """All checks of a version, one after the other."""
    with TemporaryDirectory() as folder:
        own = Path(folder, "challenger")
        classifier = registry.fetch_model(version, own)
        table = held_out_here(version, splits_of(version, own))
        evidence = gather(classifier, table)
        yield from check_scores(evidence, params, evaluation)
        yield from check_budgets(classifier, evidence, params, evaluation)
        yield check_answer(version, classifier)
        if champion is None:
            yield check_images(table, np.ones(len(table), bool), params, "there is no champion to compare with")
        else:
            yield from beside(champion, evidence, params, Path(folder, "champion"))


def beside(champion: ModelVersion, evidence: Evidence, params: PromoteParams, folder: Path) -> Iterator[Check]:
    """The checks beside the champion, which is scored now, on the images that it was not trained on."""
    try:
        opponent = registry.fetch_model(champion, folder)
        fresh = unseen(evidence.table, splits_of(champion, folder))
    except LanduseError as error:
        yield Check("champion", None, None, False, f"there is nothing to compare with: {error}")
        return
    if opponent.labels != evidence.labels:
        odd = ", ".join(sorted({*opponent.labels} ^ {*evidence.labels}))
        sentence = f"version {champion.version} is champion of other classes, so the two cannot be compared: {odd}"
        yield Check("classes", None, None, False, sentence)
        return
    yield check_images(evidence.table, fresh, params, f"champion is version {champion.version}")
    if fresh.any():
        yield from check_duel(evidence.only(fresh), gather(opponent, evidence.table[fresh]), params)


def check_images(table: pd.DataFrame, fresh: np.ndarray, params: PromoteParams, note: str) -> Check:
    """Enough images to say something."""
    left_out = f", {int((~fresh).sum())} left out that the champion knows" if not fresh.all() else ""
    sentence = f"{note}; {int(fresh.sum())} of {len(table)} held-out images count{left_out}, {params.images} at least"
    return Check.at_least("images", int(fresh.sum()), params.images, sentence)
