"""Validate the images: build a manifest and check it against the Great Expectations suites in `gx/`."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from landuse.core.errors import LanduseError, Refused
from landuse.core.files import sha256_of
from landuse.core.paths import (
    ARTIFACTS,
    DATA,
    DATA_DOCS,
    DATA_DOCS_SOURCE,
    DATA_DVC,
    MANIFEST,
    VALIDATION,
    VALIDATION_PAGE,
)
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.params import ValidateParams
from landuse.validate.context import run_checkpoints
from landuse.validate.findings import ValidationResult, error_message, interpret_results
from landuse.validate.manifest import build_manifest, class_table, content_table, known_contents, write_manifest
from landuse.validate.page import render_page
from landuse.validate.suites import suite_parameters


def validate(
    params: ValidateParams, data: Path = DATA, output: Path = ARTIFACTS, pool: Pool = THIS_PROCESS
) -> ValidationResult:
    """Validate every image in a folder and write manifest, result, page and Data Docs to `output`, pass or fail.

    Raises Refused with the first error if a critical expectation fails; warnings are only recorded.
    Raises LanduseError if the folder does not exist.
    """
    if not data.is_dir():
        raise LanduseError(f"{data} is not here: bring in a data set with landuse ingest, or dvc checkout {DATA_DVC}")
    manifest, reused = make_manifest(data, pool)
    tables = {"images": manifest, "classes": class_table(manifest, params.classes), "contents": content_table(manifest)}
    output.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, output / MANIFEST.name)
    results = run_checkpoints(tables, suite_parameters(params), output / DATA_DOCS.name)
    (output / DATA_DOCS.name / DATA_DOCS_SOURCE.name).write_text(sha256_of(output / MANIFEST.name), "utf-8")
    validation = interpret_results(tables, results, params, reused)
    content = {key: value for key, value in asdict(validation).items() if key != "reused"}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (output / VALIDATION.name).write_text(text + "\n", encoding="utf-8")
    page, docs = output / VALIDATION_PAGE.name, [f"{DATA_DOCS.name}/{name}.html" for name in tables]
    page.write_text(render_page(validation, manifest, data, docs), "utf-8")
    if not validation.success:
        raise Refused(error_message(validation, data, page))
    return validation


def make_manifest(data: Path, pool: Pool) -> tuple[pd.DataFrame, int]:
    """Return the manifest of a folder, and how many of its images are known from earlier ones."""
    known = known_contents()
    manifest = build_manifest(data, known, pool)
    return manifest, 0 if known is None else int(manifest["sha256"].isin(known.index).sum())
