"""What the expectations found, in words."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from landuse.params import ValidateParams
from landuse.validate.suites import CHECKS, TABLES, Check, Severity, phrase

NOUNS = {"images": "images", "classes": "classes", "contents": "different files"}
REMEDIES = {  # by the name of the check, or else its table
    "rows": "Check data.source and run `landuse ingest`",
    "images": "Mend the images or remove them",
    "known_classes": "Remove that folder, or add it to validate.classes",
    "classes": "Add or remove images, or change params.yaml",
    "contents": "Keep one of them, under the right label",
}
ALIKE = {"sha256": "same file as", "phash": "looks like"}
LISTED = 100  # offenders of one expectation in validation.json
OF_CLASS = 6  # images to look at of a class
NAMED = 3  # images that are named as alike


@dataclass(frozen=True)
class Offender:
    """One row that is not as expected: an image, a class or a file; what was found; the images to look at."""

    name: str
    found: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One expectation: what was asked, and what was found. `unexpected` counts all offenders, listed or not."""

    name: str
    table: str
    severity: Severity
    words: str
    success: bool
    observed: str
    unexpected: int
    offenders: tuple[Offender, ...]


@dataclass(frozen=True)
class Verdict:
    """All that was found: success where no critical expectation failed; errors and warnings count those that did."""

    success: bool
    images: int
    classes: int
    errors: int
    warnings: int
    expectations: tuple[Finding, ...]

    def __str__(self) -> str:
        held = len(self.expectations) - self.errors - self.warnings
        warned = "; ".join(f.words + ": " + f.observed for f in self.expectations if not f.success)
        return (
            f"{self.images:,} images in {self.classes} classes: {held} of {len(self.expectations)} expectations hold"
            + (f"; warned: {warned}" if warned else "")
        )


def judge(tables: dict[str, pd.DataFrame], results: dict[str, dict[str, Any]], params: ValidateParams) -> Verdict:
    """Put the results of Great Expectations, by the name of the check, into words."""
    findings = tuple(find(check, results[check.name], tables, params) for check in CHECKS)
    failed = [finding.severity for finding in findings if not finding.success]
    return Verdict(
        success="critical" not in failed,
        images=len(tables["images"]),
        classes=tables["images"]["label"].nunique(),
        errors=failed.count("critical"),
        warnings=failed.count("warning"),
        expectations=findings,
    )


def find(check: Check, result: dict[str, Any], tables: dict[str, pd.DataFrame], params: ValidateParams) -> Finding:
    """One check in words."""
    details = result["result"]
    rows = [] if result["success"] else details.get("unexpected_index_list") or []
    return Finding(
        name=check.name,
        table=check.table,
        severity=check.severity,
        words=phrase(check.words, params),
        success=result["success"],
        observed=observe(check, details, tables[check.table]),
        unexpected=details.get("unexpected_count", 0),
        offenders=tuple(islice((offender(check, row, tables["images"]) for row in rows), LISTED)),
    )


def observe(check: Check, details: dict[str, Any], table: pd.DataFrame) -> str:
    """The value of a whole column or table; or how many rows are as expected, and the range of their numbers."""
    if "unexpected_count" not in details:
        value = details.get("observed_value")
        return f"{len(value)} columns" if isinstance(value, list) else "nothing" if value is None else number(value)
    total, wrong = details["element_count"], details["unexpected_count"]
    some = f"none of {total:,}" if wrong == total else f"all but {wrong:,} of {total:,}"
    share = some if wrong else f"all {total:,}"
    column = table[check.arguments["column"]] if check.expectation == "ExpectColumnValuesToBeBetween" else None
    if column is None or column.dropna().empty:
        return f"{share} {NOUNS[check.table]}"
    low, high = number(column.min()), number(column.max())
    values = f"{column.name} {low}".replace("_", " ") + (f" to {high}" if low != high else "")
    return f"{share} {NOUNS[check.table]}; {values}"


def offender(check: Check, row: dict[str, Any], manifest: pd.DataFrame) -> Offender:
    """One unexpected row, as Great Expectations lists it: its key and the values that were asked for."""
    key = row[TABLES[check.table]]
    if check.table == "classes":
        paths = manifest.loc[manifest["label"] == key, "path"].head(OF_CLASS)
        return Offender(key, values_of(check, row), tuple(paths))
    if check.alike:
        group = manifest.set_index("path")[check.alike]
        paths = tuple(group.index[group == group[key]])
        others = [path for path in paths if path != key]
        more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
        return Offender(key, f"{ALIKE[check.alike]} {', '.join(others[:NAMED])}{more}", paths[:LISTED])
    if check.name == "decodes":
        return Offender(key, manifest.set_index("path")["reason"][key], (key,))
    return Offender(key, values_of(check, row), (key,))


def values_of(check: Check, row: dict[str, Any]) -> str:
    """What a row holds in the columns of a check: `width 247, height 256`."""
    columns = [check.arguments[key] for key in ("column", "column_A", "column_B") if key in check.arguments]
    values = [(column, row[column]) for column in columns]
    return ", ".join(f"{column} {value if isinstance(value, str) else number(value)}" for column, value in values)


def number(value: float) -> str:
    """`28,920`, `21.96`."""
    return f"{round(float(value), 2):,.12g}"


def complaint(verdict: Verdict, data: Path, page: Path) -> str:
    """The first error in one line: what was expected, the first that is not so, what to do, where to look."""
    finding = next(item for item in verdict.expectations if item.severity == "critical" and not item.success)
    remedy = REMEDIES.get(finding.name, REMEDIES[finding.table])
    evidence = f"found {finding.observed}"
    if finding.offenders:
        first, others = finding.offenders[0], finding.unexpected - 1
        evidence = f"not so: {first.name} ({first.found})" + (f" and {others:,} more" if others else "")
    return f"{data}: {finding.words}; {evidence}. {remedy}; {page} shows all"
