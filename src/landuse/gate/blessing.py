"""The blessing: what the gate found of a version, check by check. `artifacts/blessing.json` holds exactly this."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from landuse.paths import BLESSING


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `value` and `threshold` are numbers, or None where there is nothing to count."""

    name: str
    value: float | None
    threshold: float | None
    passed: bool
    sentence: str

    @classmethod
    def at_least(cls, name: str, value: float, threshold: float, sentence: str) -> Self:
        return cls(name, float(value), float(threshold), bool(value >= threshold), sentence)

    @classmethod
    def at_most(cls, name: str, value: float, threshold: float, sentence: str) -> Self:
        return cls(name, float(value), float(threshold), bool(value <= threshold), sentence)

    def __str__(self) -> str:
        return f"{'passed ' if self.passed else 'FAILED '} {self.name:<18} {self.sentence}"


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

    def first_failure(self) -> Check | None:
        """The check to name in a refusal."""
        return next((check for check in self.checks if not check.passed), None)

    def write(self) -> None:
        """Write `artifacts/blessing.json`."""
        BLESSING.parent.mkdir(exist_ok=True)
        BLESSING.write_text(json.dumps(self.as_dict(), indent=2) + "\n", encoding="utf-8")
