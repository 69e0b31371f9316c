"""Promote: a version that the gate lets through becomes champion."""

from collections.abc import Callable
from dataclasses import replace

from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion

from landuse import registry
from landuse.core.errors import LanduseError, Refused, printable
from landuse.core.paths import REPORT
from landuse.gate import judge
from landuse.gate.blessing import Blessing
from landuse.gate.scoring import are_here
from landuse.params import EvaluateParams, PromoteParams
from landuse.promote.publish import publish, restore
from landuse.registry import AGAIN, CHALLENGER, audit_log
from landuse.registry.transition import hand_over, settled_champion

BY_THE_GATE = "passed the gate"


def promote(
    params: PromoteParams,
    evaluation: EvaluateParams,
    name: str,
    number: str | None = None,
    *,
    reason: str | None = None,
    dry_run: bool = False,
    tell: Callable[[object], None] = print,
) -> Blessing:
    """Judge a version, the challenger by default, and make it champion; with a reason, whatever the verdict.

    Writes `artifacts/blessing.json` and `report.html`, and tags of the version. Raises Refused where the gate does not
    let it through, and LanduseError where it cannot be judged or another command is at work; then the champion is what
    it was.
    """
    reason = reason and printable(reason)
    with registry.at_hand():
        champion = settled_champion(name, mind_the_ledger=reason is None)
        version = registry.get_version(name, number or challenger(name))
        number = str(version.version)
        if number == champion and (known := blessing_of_champion(name, number)):
            known.write()
            show_again(version, known, evaluation)
            tell(f"nothing is judged, it is the champion already: {REPORT} shows its judgement")
            return known
        rival = None if champion in (None, number) else registry.get_version(name, champion)
        blessing = replace(judge(version, rival, params, evaluation, tell), reason=reason)
        record(blessing)
        refused = blessing.verdict == "refused" and reason is None
        if not refused and not dry_run:
            blessing = crown(blessing, champion)
        try:
            publish(version, blessing, evaluation)
        except (LanduseError, MlflowException, OSError) as error:
            if not blessing.promoted:
                raise
            tell(f"{registry.title(version)} is the champion, but has no report yet ({error}): landuse promote again")
        if refused:
            raise Refused(f"{name} version {number} is refused: {blessing.why_not()}; {REPORT} shows all")
        return blessing


def challenger(name: str) -> str:
    """The version that challenges. Raises LanduseError where none does."""
    number = registry.aliases(name).get(CHALLENGER)
    if number is None:
        raise LanduseError(
            f"{name} has no challenger: dvc repro registers one ({AGAIN} where it was deleted), or name a version"
        )
    return number


def blessing_of_champion(name: str, number: str) -> Blessing | None:
    """The blessing with which a version became champion, if by the ledger it still is."""
    done = audit_log.done(name)
    if audit_log.champions(done)[-1:] != [number]:
        return None
    kept = (audit_log.blessing(entry) for entry in reversed(done) if entry.after == number)
    return next((Blessing.of(content) for content in kept if content), None)


def show_again(version: ModelVersion, known: Blessing, evaluation: EvaluateParams) -> None:
    """The report of the champion: made anew where data/ holds the images that it shows, else the one its run keeps."""
    if are_here(version):
        publish(version, known, evaluation)
    else:
        restore(version)


def crown(blessing: Blessing, champion: str | None) -> Blessing:
    """Hand over to a version that was judged; returns its blessing with what came of it."""
    forced = blessing.verdict == "refused"
    blessing = replace(blessing, promoted=True, forced=forced)
    why = blessing.reason or BY_THE_GATE
    action = "force" if forced else "promote"
    hand_over(blessing.model, blessing.version, action, why, champion, blessing.as_dict())
    record(blessing)
    return blessing


def record(blessing: Blessing) -> None:
    """Write the blessing to its file, and the gist of it as tags of the version."""
    blessing.write()
    failed = ", ".join(check.name for check in blessing.failures())
    against = blessing.champion or "none"
    tags = {"verdict": blessing.verdict, "moment": blessing.moment, "champion": against, "failed": failed or "none"}
    for key, value in tags.items():
        MlflowClient().set_model_version_tag(blessing.model, blessing.version, f"gate.{key}", value)
