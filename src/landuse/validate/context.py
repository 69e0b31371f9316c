"""Run Great Expectations in a temporary copy of `gx/`, so that runs are isolated and committed files never change."""

import os
from datetime import UTC, datetime
from pathlib import Path
from shutil import Error as CopyErrors
from shutil import copytree, ignore_patterns, move, rmtree
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from landuse.core.errors import LanduseError
from landuse.core.paths import GX


def open_context(project: Path) -> Any:
    """Open the Great Expectations context of a folder that contains `gx/`, with analytics turned off."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    return gx.get_context(mode="file", project_root_dir=project)


def run_checkpoints(
    tables: dict[str, pd.DataFrame], parameters: dict[str, Any], data_docs: Path
) -> dict[str, dict[str, Any]]:
    """Run the checkpoint of each table and move the Data Docs of this run to `data_docs`.

    Returns the JSON result of each expectation, keyed by the name in its `meta`. Raises LanduseError if there is no
    `gx/` or the Data Docs cannot be written.
    """
    if not GX.is_dir():
        raise LanduseError(f"{GX}/ is not here: run landuse in the project's folder")
    with TemporaryDirectory() as scratch:
        copytree(GX, Path(scratch, "gx"), ignore=ignore_patterns("uncommitted"))
        context = open_context(Path(scratch))
        from great_expectations.core.run_identifier import RunIdentifier

        run = RunIdentifier(run_name="validate", run_time=datetime.now(UTC))
        results = {}
        for name, frame in tables.items():
            checkpoint = context.checkpoints.get(name)
            outcome = checkpoint.run({"dataframe": frame}, expectation_parameters=parameters, run_id=run)
            for result in next(iter(outcome.run_results.values())).results:
                results[result.expectation_config.meta["name"]] = result.to_json_dict()
        rmtree(data_docs, ignore_errors=True)
        try:
            move(Path(scratch, "gx", "uncommitted", "data_docs"), data_docs)
        except CopyErrors as error:  # shutil collects the errors of single files when it copies across disks
            raise LanduseError(f"{data_docs} cannot be written: {error.args[0][0][-1]}") from None
    for name in tables:
        write_redirect(data_docs, name)
    return results


def write_redirect(data_docs: Path, name: str) -> None:
    """Write `<name>.html`, a stable link to the results of a table: Great Expectations puts the time in their path."""
    results = next(data_docs.glob(f"validations/{name}/*/*/*.html")).relative_to(data_docs).as_posix()
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={results}"><a href="{results}">{name}</a>\n'
    (data_docs / f"{name}.html").write_text(page, encoding="utf-8")
