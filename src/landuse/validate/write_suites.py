"""Make the suites, validation definitions and checkpoints in `gx/` from the list in `suites.py`.

`python -m landuse.validate.write_suites` does it where they differ; a test fails until it was done.
"""

import json
from html import escape
from pathlib import Path
from shutil import copyfile, copytree
from tempfile import TemporaryDirectory
from typing import Any

from landuse.core.paths import GX
from landuse.validate.context import open_context
from landuse.validate.suites import CHECKS, TABLES, phrase

WRITTEN = ("expectations", "validation_definitions", "checkpoints")
VOLATILE = {"id", "great_expectations_version"}  # new in every build, and with every release


def build(project: Path) -> None:
    """Write the suites, validation definitions and checkpoints of CHECKS into the `gx/` of a project folder."""
    context = open_context(project)
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    for table, key in TABLES.items():
        suite = gx.ExpectationSuite(name=table)
        for check in (check for check in CHECKS if check.table == table):
            kind = getattr(gx.expectations, check.expectation)
            # A description takes the place of the sentence that shows the numbers; for pairs there is no sentence.
            words = "notes" if "{" in check.words and "column" in check.arguments else "description"
            texts = {"meta": {"name": check.name}, words: escape(phrase(check.words))}
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


def meaning(text: str) -> Any:
    """JSON without what says nothing about the images."""
    return json.loads(text, object_hook=lambda item: {key: item[key] for key in item if key not in VOLATILE})


def outdated(gx: Path = GX, rewrite: bool = False) -> list[str]:
    """The files of `gx/` that do not say what CHECKS says; with `rewrite`, all are made anew if there are any."""
    with TemporaryDirectory() as scratch:
        fresh = Path(scratch, "gx")
        copytree(gx, fresh, ignore=lambda _, names: {*names} & {*WRITTEN, "uncommitted"})
        build(fresh.parent)
        made = {path.relative_to(fresh) for part in WRITTEN for path in (fresh / part).rglob("*.json")}
        kept = {path.relative_to(gx) for part in WRITTEN for path in (gx / part).rglob("*.json")}
        old = [str(path) for path in sorted(made | kept) if not same(fresh / path, gx / path)]
        if old and rewrite:
            for path in kept - made:
                (gx / path).unlink()
            for path in made:
                (gx / path).parent.mkdir(parents=True, exist_ok=True)
                copyfile(fresh / path, gx / path)
    return old


def same(first: Path, second: Path) -> bool:
    """Whether both files are there and mean the same."""
    return first.exists() and second.exists() and meaning(first.read_text()) == meaning(second.read_text())


if __name__ == "__main__":
    print("\n".join(outdated(rewrite=True)) or "gx/ says what landuse.validate.suites says")
