"""The blessing: the verdict of the gate and the result of every check, as `artifacts/blessing.json` holds them."""

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal, Self

from landuse.core.files import write_atomically
from landuse.core.paths import BLESSING

THRESHOLD_KEYS = {  # by check name or its prefix: the key of params.yaml with the threshold
    "accuracy": "min_accuracy",
    "macro_f1": "min_macro_f1",
    "class_recall": "min_class_recall",
    "calibration_error": "max_calibration_error",
    "latency_ms": "max_latency_ms",
    "size_mb": "max_size_mb",
    "slice": "min_slice_accuracy",
    "robust": "max_disturbed_fall",
    "images": "min_images",
    "mcnemar": "significance",
    "difference": "margin",
    "class_fall": "max_class_fall",
    "coverage_fall": "max_coverage_fall",
    "shrinkage": "max_shrinkage",
}
COMPARISONS = frozenset({"mcnemar", "difference", "class_fall", "coverage_fall"})
DIGITS = 9  # decimals compared: 0.8 - 0.6 counts as exactly 0.2


@dataclass(frozen=True)
class Check:
    """Result of one check. `value` and `threshold` are None if the check has no number to compare.

    `detail` holds the individual figures if the sentence summarizes several. A check that is not `judged` had nothing
    to judge: it has neither passed nor failed.
    """

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    sentence: str
    detail: dict[str, Any] = field(default_factory=dict)
    judged: bool = True

    @classmethod
    def at_least(
        cls, name: str, value: float, threshold: float, sentence: str, detail: dict[str, Any] | None = None
    ) -> Self:
        """Create a check that passes if the value is at least the threshold; NaN fails."""
        passed = round(float(value), DIGITS) >= threshold
        return cls(name, json_number(value), float(threshold), passed, sentence, detail or {})

    @classmethod
    def at_most(
        cls, name: str, value: float, threshold: float, sentence: str, detail: dict[str, Any] | None = None
    ) -> Self:
        """Create a check that passes if the value is at most the threshold; NaN fails."""
        passed = round(float(value), DIGITS) <= threshold
        return cls(name, json_number(value), float(threshold), passed, sentence, detail or {})

    @classmethod
    def without_object(cls, name: str, why: str, detail: dict[str, Any] | None = None) -> Self:
        """Create a check that has nothing to judge."""
        return cls(name, None, None, False, f"not judged: {why}", detail or {}, judged=False)

    @property
    def failed(self) -> bool:
        """Whether it was judged and did not pass."""
        return self.judged and not self.passed

    @property
    def outcome(self) -> Literal["passed", "failed", "not judged"]:
        """The outcome in words."""
        if not self.judged:
            return "not judged"
        return "passed" if self.passed else "failed"

    @property
    def threshold_key(self) -> str | None:
        """Path of its threshold in params.yaml, or None if it is not configurable."""
        key = THRESHOLD_KEYS.get(self.name) or THRESHOLD_KEYS.get(self.name.partition("_")[0])
        return f"promote.{key}" if key else None

    @property
    def explanation(self) -> str:
        """The sentence, followed by the params key of the threshold."""
        return f"{self.sentence} ({self.threshold_key})" if self.threshold_key else self.sentence

    def __str__(self) -> str:
        mark = {"passed": "passed", "failed": "FAILED", "not judged": "-"}[self.outcome]
        return f"{mark:<7} {self.name:<18} {self.sentence}"


def json_number(value: float) -> float | None:
    """Round a number for JSON; NaN and infinities become None."""
    return round(float(value), DIGITS) if isfinite(value) else None


@dataclass(frozen=True)
class Blessing:
    """The verdict on a version.

    `champion` is the version it was compared with, or None if there was none. `promoted` says whether it became
    champion, `forced` whether against the verdict, `reason` is the text given with --reason. `moment` is an ISO time.
    `data` is the md5 of the data set of the held-out images. `compared_on` counts the held-out images in the
    comparison, or all of them if there was no champion.
    """

    model: str
    version: str
    champion: str | None
    verdict: Literal["passed", "refused"]
    promoted: bool
    forced: bool
    reason: str | None
    moment: str
    data: str
    compared_on: int
    checks: tuple[Check, ...]

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        """Build a blessing from parsed JSON."""
        return cls(**content | {"checks": tuple(Check(**check) for check in content["checks"])})

    def to_dict(self) -> dict[str, Any]:
        """Return the content of blessing.json."""
        return asdict(self)

    def failures(self) -> list[Check]:
        """Return the checks that failed."""
        return [check for check in self.checks if check.failed]

    @property
    def standing(self) -> str | None:
        """How the version stands beside the champion, in words; None if they were not compared."""
        compared = [check for check in self.checks if check.name in COMPARISONS]
        if not compared:
            return None
        if any(check.failed for check in compared):
            return "perhaps worse than the champion"
        return "better than the champion" if self.detail("better").get("better") else "not worse than the champion"

    @property
    def summary(self) -> str:
        """Verdict, failed checks, standing and outcome in a few words."""
        failed, standing = [check.name for check in self.failures()], self.standing
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        why = f" by {failed[0]}{more}" if failed else ""
        beside = f", {standing.replace('the champion', f'version {self.champion}')}" if standing and not failed else ""
        outcome = (", forced" if self.forced else ", promoted") if self.promoted else ""
        return f"{self.verdict}{why}{beside}{outcome}"

    def count_passed(self) -> str:
        """Count the checks that passed, and those that had nothing to judge."""
        passed, idle = (sum(check.outcome == outcome for check in self.checks) for outcome in ("passed", "not judged"))
        return f"{passed} of {len(self.checks)} checks passed" + (f", {idle} had nothing to judge" if idle else "")

    def summarize_failures(self) -> str:
        """Describe the first failure with the key of its threshold, and count the others."""
        first, *others = self.failures()
        more = f", and {len(others)} more of its checks failed" if others else ""
        return f"{first.explanation}{more}"

    def detail(self, name: str) -> dict[str, Any]:
        """Return the figures behind a check; empty if it did not run, or ran before figures were recorded."""
        return next((check.detail for check in self.checks if check.name == name), {})

    def write(self) -> None:
        """Write `artifacts/blessing.json`."""
        BLESSING.parent.mkdir(exist_ok=True)
        write_atomically(BLESSING, json.dumps(self.to_dict(), indent=2) + "\n")
