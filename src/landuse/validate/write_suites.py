"""Generate the suites, validation definitions and checkpoints in `gx/` from the list in `suites.py`.

Run `python -m landuse.validate.write_suites` after changing the list; a test fails while the files are outdated.
"""

import json
from html import escape
from pathlib import Path
from shutil import copyfile, copytree
from tempfile import TemporaryDirectory
from typing import Any

from landuse.core.paths import GX
from landuse.validate.context import open_context
from landuse.validate.suites import CHECKS, TABLES, fill_in_params

GENERATED = ("expectations", "validation_definitions", "checkpoints")
VOLATILE = {"id", "great_expectations_version"}  # these change with every build and every release


def build_suites(project: Path) -> None:
    """Write the suites, validation definitions and checkpoints of CHECKS to the `gx/` of a project folder."""
    context = open_context(project)
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    for table, key in TABLES.items():
        suite = gx.ExpectationSuite(name=table)
        for check in (check for check in CHECKS if check.table == table):
            kind = getattr(gx.expectations, check.expectation)
            # A description replaces the generated sentence that shows the numbers; for pairs there is no such sentence.
            field = "notes" if "{" in check.words and "column" in check.arguments else "description"
            texts = {"meta": {"name": check.name}, field: escape(fill_in_params(check.words))}
            suite.add_expectation(kind(severity=check.severity, **texts, **check.arguments))
        context.suites.add(suite)
        batches = context.data_sources.get("landuse").get_asset(table).get_batch_definition("whole")
        definition = gx.ValidationDefinition(name=table, data=batches, suite=suite)
        context.validation_definitions.add(definition)
        context.checkpoints.add(
            gx.Checkpoint(
                name=table,
                validation_definitions=[definition],
                actions=[UpdateDataDocsAction(name="data_docs")],
                result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [key]},
            )
        )


def parse_stable(text: str) -> Any:
    """Parse JSON, dropping the keys that differ between builds."""
    return json.loads(text, object_hook=lambda item: {key: item[key] for key in item if key not in VOLATILE})


def outdated_files(gx: Path = GX, rewrite: bool = False) -> list[str]:
    """List the files of `gx/` that differ from CHECKS; with `rewrite`, regenerate all files if any differs."""
    with TemporaryDirectory() as scratch:
        fresh = Path(scratch, "gx")
        copytree(gx, fresh, ignore=lambda _, names: {*names} & {*GENERATED, "uncommitted"})
        build_suites(fresh.parent)
        expected = {path.relative_to(fresh) for part in GENERATED for path in (fresh / part).rglob("*.json")}
        committed = {path.relative_to(gx) for part in GENERATED for path in (gx / part).rglob("*.json")}
        outdated = [str(path) for path in sorted(expected | committed) if not is_same(fresh / path, gx / path)]
        if outdated and rewrite:
            for path in committed - expected:
                (gx / path).unlink()
            for path in expected:
                (gx / path).parent.mkdir(parents=True, exist_ok=True)
                copyfile(fresh / path, gx / path)
    return outdated


def is_same(first: Path, second: Path) -> bool:
    """Return True if both files exist and differ at most in volatile keys."""
    return first.exists() and second.exists() and parse_stable(first.read_text()) == parse_stable(second.read_text())


if __name__ == "__main__":
    print("\n".join(outdated_files(rewrite=True)) or "gx/ is up to date with landuse.validate.suites")
