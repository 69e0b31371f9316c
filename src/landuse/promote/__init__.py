"""Promote: make a version that passes the gate the champion."""

from collections.abc import Callable
from dataclasses import replace

from mlflow import MlflowClient, MlflowException
from mlflow.entities.model_registry import ModelVersion

from landuse import registry
from landuse.core.errors import LanduseError, Refused, printable
from landuse.core.paths import REPORT
from landuse.gate import judge
from landuse.gate.blessing import Blessing
from landuse.gate.scoring import has_held_out_images
from landuse.params import EvaluateParams, PromoteParams
from landuse.promote.publish import publish, restore
from landuse.registry import CHALLENGER, REREGISTER, audit_log
from landuse.registry.transition import change_champion, current_champion
from landuse.tracking import names

GATE_PASSED = "passed the gate"


def promote(
    params: PromoteParams,
    evaluation: EvaluateParams,
    name: str,
    number: str | None = None,
    *,
    reason: str | None = None,
    dry_run: bool = False,
    notify: Callable[[object], None] = print,
) -> Blessing:
    """Judge a version, by default the challenger, and promote it if it passes; a reason forces the promotion.

    Writes `artifacts/blessing.json`, `artifacts/report.html` and tags of the version. `notify` gets every check, and
    messages. Raises Refused if the gate refuses it, and LanduseError if it cannot be judged or another command is
    running; then the champion stays.
    """
    reason = reason and printable(reason)
    with registry.existing_store():
        champion = current_champion(name, check_ledger=reason is None)
        version = registry.get_version(name, number or get_challenger(name))
        number = str(version.version)
        if number == champion and (earlier := blessing_of_champion(name, number)):
            earlier.write()
            republish(version, earlier, evaluation)
            notify(f"nothing is judged, it is the champion already: {REPORT} shows its judgement")
            return earlier
        opponent = None if champion in (None, number) else registry.get_version(name, champion)
        blessing = replace(judge(version, opponent, params, evaluation, notify), reason=reason)
        save_verdict(blessing)
        refused = blessing.verdict == "refused" and reason is None
        if not refused and not dry_run:
            blessing = make_champion(blessing, champion)
        try:
            publish(version, blessing, evaluation)
        except (LanduseError, MlflowException, OSError) as error:
            if not blessing.promoted:
                raise
            notify(f"{registry.title(version)} is the champion, but has no report yet ({error}): landuse promote again")
        if refused:
            raise Refused(f"{name} version {number} is refused: {blessing.summarize_failures()}; {REPORT} shows all")
        return blessing


def get_challenger(name: str) -> str:
    """Return the number of the challenger. Raises LanduseError if there is none."""
    number = registry.aliases(name).get(CHALLENGER)
    if number is None:
        raise LanduseError(
            f"{name} has no challenger: dvc repro registers one ({REREGISTER} where it was deleted), or name a version"
        )
    return number


def blessing_of_champion(name: str, number: str) -> Blessing | None:
    """Return the blessing with which a version became champion; None unless it is champion by the ledger."""
    done = audit_log.finished_entries(name)
    if audit_log.champions(done)[-1:] != [number]:
        return None
    blessings = (audit_log.load_blessing(entry) for entry in reversed(done) if entry.after == number)
    return next((Blessing.from_dict(content) for content in blessings if content), None)


def republish(version: ModelVersion, blessing: Blessing, evaluation: EvaluateParams) -> None:
    """Write the champion's report again, or restore it from its run if data/ lacks the images to show."""
    if has_held_out_images(version):
        publish(version, blessing, evaluation)
    else:
        restore(version)


def make_champion(blessing: Blessing, champion: str | None) -> Blessing:
    """Make a judged version the champion; returns its blessing, marked as promoted."""
    forced = blessing.verdict == "refused"
    blessing = replace(blessing, promoted=True, forced=forced)
    reason = blessing.reason or GATE_PASSED
    action = "force" if forced else "promote"
    change_champion(blessing.model, blessing.version, action, reason, champion, blessing.to_dict())
    save_verdict(blessing)
    return blessing


def save_verdict(blessing: Blessing) -> None:
    """Write the blessing to its file, and a summary as tags of the version."""
    blessing.write()
    client, version = MlflowClient(), registry.get_version(blessing.model, blessing.version)
    facts = {
        "gate.verdict": blessing.verdict,
        "gate.moment": blessing.moment,
        "gate.champion": blessing.champion or "none",
        "gate.failed": ", ".join(check.name for check in blessing.failures()) or "none",
    }
    tags = {"gate": blessing.summary} | names.record_tag(names.parse_record(version.tags.get(names.RECORD, "")) | facts)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
