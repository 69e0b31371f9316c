"""Translate the results of Great Expectations into plain words."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from landuse.params import ValidateParams
from landuse.validate.suites import CHECKS, TABLES, Check, Severity, fill_in_params

NOUNS = {"images": "images", "classes": "classes", "contents": "different files"}
REMEDIES = {  # keyed by check name, with the table as the fallback
    "rows": "Check data.source and run `landuse ingest`",
    "images": "Repair the images or remove them",
    "known_classes": "Remove that folder, or add it to validate.classes",
    "classes": "Add or remove images, or change params.yaml",
    "contents": "Keep one of them, under the right label",
}
RELATIONS = {"sha256": "same file as", "phash": "looks like"}
MAX_OFFENDERS = 100  # listed in validation.json per expectation
MAX_CLASS_IMAGES = 6  # example images shown for an offending class
MAX_NAMED = 3  # related images named in the text


@dataclass(frozen=True)
class Offender:
    """One row that violates an expectation: an image, class or file, its values, and the images to show."""

    name: str
    found: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """The result of one expectation. `unexpected` counts all offenders, including those not listed."""

    name: str
    table: str
    severity: Severity
    words: str
    success: bool
    observed: str
    unexpected: int
    offenders: tuple[Offender, ...]


@dataclass(frozen=True)
class ValidationResult:
    """The results of all expectations.

    `success` means that no critical expectation failed; `errors` and `warnings` count failed expectations by severity.
    Of `reused` images the content was known, and not decoded again.
    """

    success: bool
    images: int
    classes: int
    errors: int
    warnings: int
    expectations: tuple[Finding, ...]
    reused: int

    def __str__(self) -> str:
        passed = len(self.expectations) - self.errors - self.warnings
        warned = "; ".join(f.words + ": " + f.observed for f in self.expectations if not f.success)
        return (
            f"{self.images:,} images in {self.classes} classes: {passed} of {len(self.expectations)} expectations hold"
            + (f"; {self.reused:,} images were known" if self.reused else "")
            + (f"; warned: {warned}" if warned else "")
        )


def interpret_results(
    tables: dict[str, pd.DataFrame], results: dict[str, dict[str, Any]], params: ValidateParams, reused: int = 0
) -> ValidationResult:
    """Convert the results of Great Expectations, keyed by check name, to findings in words."""
    findings = tuple(build_finding(check, results[check.name], tables, params) for check in CHECKS)
    failed = [finding.severity for finding in findings if not finding.success]
    return ValidationResult(
        success="critical" not in failed,
        images=len(tables["images"]),
        classes=tables["images"]["label"].nunique(),
        errors=failed.count("critical"),
        warnings=failed.count("warning"),
        expectations=findings,
        reused=reused,
    )


def build_finding(
    check: Check, result: dict[str, Any], tables: dict[str, pd.DataFrame], params: ValidateParams
) -> Finding:
    """Convert the result of one check to a finding."""
    details = result["result"]
    rows = [] if result["success"] else details.get("unexpected_index_list") or []
    return Finding(
        name=check.name,
        table=check.table,
        severity=check.severity,
        words=fill_in_params(check.words, params),
        success=result["success"],
        observed=describe_observed(check, details, tables[check.table]),
        unexpected=details.get("unexpected_count", 0),
        offenders=tuple(islice((build_offender(check, row, tables["images"]) for row in rows), MAX_OFFENDERS)),
    )


def describe_observed(check: Check, details: dict[str, Any], table: pd.DataFrame) -> str:
    """Describe the observed value of a column or table, or how many rows pass and the range of their values."""
    if "unexpected_count" not in details:
        value = details.get("observed_value")
        if isinstance(value, list):
            return f"{len(value)} columns"
        return "nothing" if value is None else format_number(value)
    total, failed = details["element_count"], details["unexpected_count"]
    some = f"none of {total:,}" if failed == total else f"all but {failed:,} of {total:,}"
    share = some if failed else f"all {total:,}"
    column = table[check.arguments["column"]] if check.expectation == "ExpectColumnValuesToBeBetween" else None
    if column is None or column.dropna().empty:
        return f"{share} {NOUNS[check.table]}"
    low, high = format_number(column.min()), format_number(column.max())
    values = f"{column.name} {low}".replace("_", " ") + (f" to {high}" if low != high else "")
    return f"{share} {NOUNS[check.table]}; {values}"


def build_offender(check: Check, row: dict[str, Any], manifest: pd.DataFrame) -> Offender:
    """Convert one unexpected row, as Great Expectations lists it (its key and the checked values), to an offender."""
    key = row[TABLES[check.table]]
    if check.table == "classes":
        examples = manifest.loc[manifest["label"] == key, "path"].head(MAX_CLASS_IMAGES)
        return Offender(key, format_values(check, row), tuple(examples))
    if check.grouped_by:
        groups = manifest.set_index("path")[check.grouped_by]
        paths = tuple(groups.index[groups == groups[key]])
        others = [path for path in paths if path != key]
        more = f" and {len(others) - MAX_NAMED:,} more" if len(others) > MAX_NAMED else ""
        found = f"{RELATIONS[check.grouped_by]} {', '.join(others[:MAX_NAMED])}{more}"
        return Offender(key, found, paths[:MAX_OFFENDERS])
    if check.name == "decodes":
        return Offender(key, manifest.set_index("path")["reason"][key], (key,))
    return Offender(key, format_values(check, row), (key,))


def format_values(check: Check, row: dict[str, Any]) -> str:
    """Format the values that a row has in the columns of a check, such as `width 247, height 256`."""
    columns = [check.arguments[key] for key in ("column", "column_A", "column_B") if key in check.arguments]
    values = [(column, row[column]) for column in columns]
    return ", ".join(
        f"{column} {value if isinstance(value, str) else format_number(value)}" for column, value in values
    )


def format_number(value: float) -> str:
    """Format a number with thousands separators and at most two decimals: `28,920`, `21.96`."""
    return f"{round(float(value), 2):,.12g}"


def error_message(validation: ValidationResult, data: Path, page: Path) -> str:
    """Describe the first error in one line: the expectation, its first offender, the remedy and the page."""
    finding = next(item for item in validation.expectations if item.severity == "critical" and not item.success)
    remedy = REMEDIES.get(finding.name, REMEDIES[finding.table])
    evidence = f"found {finding.observed}"
    if finding.offenders:
        first, others = finding.offenders[0], finding.unexpected - 1
        evidence = f"fails for {first.name} ({first.found})" + (f" and {others:,} more" if others else "")
    return f"{data}: {finding.words}; {evidence}. {remedy}; {page} shows all"
