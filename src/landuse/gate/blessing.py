"""The blessing: what the gate found of a version, check by check. `artifacts/blessing.json` holds exactly this."""

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal, Self

from landuse.core.files import write_whole
from landuse.core.paths import BLESSING
from landuse.params import PromoteParams

KEYS = {"mcnemar": "significance", "difference": "margin", "slice": "slice_accuracy", "robust": "disturbed_fall"}
DIGITS = 9  # so that a fall from 0.8 to 0.6 is one of 0.2, and no more


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `value` and `threshold` are numbers, or None where there is nothing to count.

    `detail` holds the figures behind the sentence, where it sums up several.
    """

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    sentence: str
    detail: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at_least(cls, name: str, value: float, threshold: float, sentence: str, detail: dict | None = None) -> Self:
        passed = round(float(value), DIGITS) >= threshold
        return cls(name, counted(value), float(threshold), passed, sentence, detail or {})

    @classmethod
    def at_most(cls, name: str, value: float, threshold: float, sentence: str, detail: dict | None = None) -> Self:
        passed = round(float(value), DIGITS) <= threshold
        return cls(name, counted(value), float(threshold), passed, sentence, detail or {})

    @property
    def key(self) -> str | None:
        """Where its threshold stands in params.yaml; None where it has none there."""
        key = KEYS.get(self.name.partition("_")[0], self.name)
        return f"promote.{key}" if key in PromoteParams.__dataclass_fields__ else None

    @property
    def why(self) -> str:
        """What was found, and where its threshold stands."""
        return f"{self.sentence} ({self.key})" if self.key else self.sentence

    def __str__(self) -> str:
        return f"{'passed ' if self.passed else 'FAILED '} {self.name:<18} {self.sentence}"


def counted(value: float) -> float | None:
    """A number as JSON can hold it."""
    return round(float(value), DIGITS) if isfinite(value) else None


@dataclass(frozen=True)
class Blessing:
    """The verdict on a version.

    `champion` is the version it was compared with, None where there is no champion; `promoted` and `forced` say whether
    it became champion, and against the verdict; `reason` is the text given with --reason; `moment` is an ISO time;
    `data` is the md5 of the data set the held-out images come from; `compared_on` is the number of them that stand
    in the comparison, or of all held-out images without a champion.
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
    def of(cls, content: dict[str, Any]) -> Self:
        """From what JSON holds."""
        return cls(**content | {"checks": tuple(Check(**check) for check in content["checks"])})

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    def why_not(self) -> str:
        """The first failure in words, the key of its threshold, and how many more there are."""
        first, *others = self.failures()
        more = f", and {len(others)} more of its checks failed" if others else ""
        return f"{first.why}{more}"

    def detail(self, name: str) -> dict[str, Any]:
        """The figures behind a check; none where it was not made, or made before they were kept."""
        return next((check.detail for check in self.checks if check.name == name), {})

    def write(self) -> None:
        """Write `artifacts/blessing.json`."""
        BLESSING.parent.mkdir(exist_ok=True)
        write_whole(BLESSING, json.dumps(self.as_dict(), indent=2) + "\n")
