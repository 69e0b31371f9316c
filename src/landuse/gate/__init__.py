"""The gate: is a version good enough to become champion. It looks at images and files, and moves nothing."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable
from landuse.gate.blessing import Blessing, Check
from landuse.gate.comparison import check_duel
from landuse.gate.consistency import check_answer, check_formats
from landuse.gate.robustness import check_robustness
from landuse.gate.scoring import Evidence, Facing, facing, own_evidence, undisturbed
from landuse.gate.slices import check_slices
from landuse.gate.thresholds import check_budgets, check_scores
from landuse.params import EvaluateParams, PromoteParams
from landuse.registry import MODEL_FOLDER, audit_log

Tell = Callable[[Check], None]


def judge(
    version: ModelVersion, champion: ModelVersion | None, params: PromoteParams, evaluation: EvaluateParams, tell: Tell
) -> Blessing:
    """Look at a version, and beside the champion if there is one; `tell` hears of each check as it is done.

    Raises LanduseError where it cannot be judged: files that are lost or damaged, or another data set in data/, and
    Unavailable where that takes its place meanwhile.
    """
    checks = []
    with undisturbed():
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
        classifier, evidence = own_evidence(version, own)
        yield from check_past(version)
        yield from check_scores(evidence, params, evaluation)
        yield from check_budgets(classifier, evidence, params, evaluation)
        yield from check_slices(evidence, params)
        yield from check_robustness(classifier, evidence, params)
        yield check_formats(own / MODEL_FOLDER, classifier, evidence)
        yield check_answer(version, own, classifier)
        if champion is None:
            count = len(evidence.table)
            yield check_images(count, params, f"there is no champion to compare with; {count} held-out images count")
        else:
            yield from beside(champion, evidence, params, Path(folder, "champion"))


def beside(champion: ModelVersion, evidence: Evidence, params: PromoteParams, folder: Path) -> Iterator[Check]:
    """The checks beside the champion, which is scored now, on the images that it was not trained on."""
    try:
        faced = facing(champion, evidence, folder)
    except Unavailable:
        raise
    except LanduseError as error:
        yield Check("champion", None, None, False, f"the champion cannot be compared with: {error}")
        return
    count = len(faced.challenger.table)
    counted = f"{count} of {len(evidence.table)} held-out images count{left_out(faced)}"
    yield check_images(count, params, f"compared with the champion, version {champion.version}; {counted}")
    yield from check_duel(faced.challenger, faced.opponent, params)


def left_out(faced: Facing) -> str:
    """How many held-out images are not compared on, and why."""
    seen = f", {faced.seen} left out because the champion was trained on them" if faced.seen else ""
    alike = f", {faced.alike} because it was trained on near-duplicates of them" if faced.alike else ""
    return seen + alike


def check_images(count: int, params: PromoteParams, note: str) -> Check:
    """Enough images to say something."""
    return Check.at_least("images", count, params.images, f"{note}; {params.images} at least")


def check_past(version: ModelVersion) -> Iterator[Check]:
    """A version that was rolled back does not become champion again by itself; nothing to say of any other version."""
    number = str(version.version)
    moves = [entry for entry in audit_log.done(version.name) if number in (entry.before, entry.after)]
    if moves and moves[-1].action == "rollback" and moves[-1].before == number:
        sentence = f"it was rolled back at {moves[-1].when}; --force and a reason bring it back"
        yield Check("rolled_back", None, None, False, sentence)
