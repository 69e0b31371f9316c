"""The gate: decide whether a version is good enough to become champion. It only reads, and moves no alias."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities.model_registry import ModelVersion

from landuse.core.errors import LanduseError, Unavailable
from landuse.gate.blessing import Blessing, Check
from landuse.gate.comparison import check_comparison
from landuse.gate.consistency import check_formats, check_fresh_process
from landuse.gate.robustness import check_robustness
from landuse.gate.scoring import PairedComparison, ScoredImages, compare_on_unseen, data_unchanged, score_version
from landuse.gate.shrinkage import check_shrinkage
from landuse.gate.slices import check_slices
from landuse.gate.thresholds import check_budgets, check_scores
from landuse.params import EvaluateParams, PromoteParams
from landuse.registry import MODEL_FOLDER, audit_log
from landuse.tracking.names import facts_of

OnCheck = Callable[[Check], None]


def judge(
    version: ModelVersion,
    champion: ModelVersion | None,
    params: PromoteParams,
    evaluation: EvaluateParams,
    on_check: OnCheck,
) -> Blessing:
    """Judge a version, comparing it with the champion if there is one; `on_check` is called after each check.

    Raises LanduseError if it cannot be judged, because files are lost or damaged or data/ holds another data set, and
    Unavailable if data/ is replaced meanwhile.
    """
    checks = []
    with data_unchanged():
        for check in run_checks(version, champion, params, evaluation):
            on_check(check)
            checks.append(check)
    return Blessing(
        model=version.name,
        version=str(version.version),
        champion=None if champion is None else str(champion.version),
        verdict="refused" if any(check.failed for check in checks) else "passed",
        promoted=False,
        forced=False,
        reason=None,
        moment=datetime.now(UTC).isoformat(timespec="seconds"),
        data=facts_of(version.tags)["data.md5"],
        compared_on=next((int(check.value or 0) for check in checks if check.name == "images"), 0),
        checks=tuple(checks),
    )


def run_checks(
    version: ModelVersion, champion: ModelVersion | None, params: PromoteParams, evaluation: EvaluateParams
) -> Iterator[Check]:
    """Run all checks of a version, yielding each as it is done."""
    with TemporaryDirectory() as folder:
        challenger_folder = Path(folder, "challenger")
        classifier, scored = score_version(version, challenger_folder)
        yield from check_rollback(version)
        yield from check_scores(scored, params, evaluation)
        yield from check_budgets(classifier, scored, params, evaluation)
        yield from check_slices(scored, params)
        yield from check_robustness(classifier, scored, params)
        yield check_formats(challenger_folder / MODEL_FOLDER, classifier, scored)
        yield check_fresh_process(version, challenger_folder, classifier)
        if champion is None:
            count = len(scored.table)
            note = f"there is no champion to compare with; {count} held-out images count"
            yield check_image_count(count, params, note)
        else:
            yield from check_against_champion(version, champion, scored, params, Path(folder, "champion"))


def check_against_champion(
    version: ModelVersion, champion: ModelVersion, scored: ScoredImages, params: PromoteParams, folder: Path
) -> Iterator[Check]:
    """Score the champion now, on held-out images that it was not trained on, and check the difference."""
    try:
        yield check_shrinkage(version, champion, params)
        pair = compare_on_unseen(champion, scored, folder)
    except Unavailable:
        raise
    except LanduseError as error:
        yield Check("champion", None, None, False, f"the champion cannot be compared with: {error}")
        return
    count = len(pair.challenger.table)
    counted = f"{count} of {len(scored.table)} held-out images count{describe_left_out(pair)}"
    yield check_image_count(count, params, f"compared with the champion, version {champion.version}; {counted}")
    same_data = facts_of(version.tags)["data.md5"] == facts_of(champion.tags).get("data.md5")
    yield from check_comparison(pair.challenger, pair.opponent, params, same_data)


def describe_left_out(pair: PairedComparison) -> str:
    """Describe how many held-out images are left out of the comparison, and why."""
    seen = f", {pair.seen} left out because the champion was trained on them" if pair.seen else ""
    duplicates = (
        f", {pair.near_duplicates} because it was trained on near-duplicates of them" if pair.near_duplicates else ""
    )
    return seen + duplicates


def check_image_count(count: int, params: PromoteParams, note: str) -> Check:
    """Check that there are enough images for the scores to be meaningful."""
    return Check.at_least("images", count, params.min_images, f"{note}; {params.min_images} at least")


def check_rollback(version: ModelVersion) -> Iterator[Check]:
    """Fail a version whose last move was a rollback from it: only force promotes it again. Else yield nothing."""
    number = str(version.version)
    moves = [entry for entry in audit_log.finished_entries(version.name) if number in (entry.before, entry.after)]
    if moves and moves[-1].action == "rollback" and moves[-1].before == number:
        sentence = f"it was rolled back at {moves[-1].when}; --force and a reason bring it back"
        yield Check("rolled_back", None, None, False, sentence)
