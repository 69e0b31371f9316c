"""Which images are let in: a manifest of all of them, held against the Great Expectations suites in `gx/`."""

import json
from dataclasses import asdict
from pathlib import Path

from landuse.core.errors import LanduseError, Refused
from landuse.core.files import sha256_of
from landuse.core.paths import ARTIFACTS, DATA, DATA_DOCS, DATA_DVC, DOCS_OF, MANIFEST, VALIDATION, VALIDATION_PAGE
from landuse.params import ValidateParams
from landuse.validate.context import run_checkpoints
from landuse.validate.findings import Verdict, complaint, judge
from landuse.validate.manifest import build_manifest, class_table, content_table, write_manifest
from landuse.validate.page import render_page
from landuse.validate.suites import suite_parameters


def validate(params: ValidateParams, data: Path = DATA, output: Path = ARTIFACTS) -> Verdict:
    """Look at every image of a folder; write manifest, verdict, page and Data Docs into `output`, whatever was found.

    Raises Refused with the first error, if there is any; warnings are written down only. LanduseError where there is
    no such folder.
    """
    if not data.is_dir():
        raise LanduseError(f"{data} is not here: bring in a data set with landuse ingest, or dvc checkout {DATA_DVC}")
    manifest = build_manifest(data)
    tables = {"images": manifest, "classes": class_table(manifest, params.classes), "contents": content_table(manifest)}
    output.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, output / MANIFEST.name)
    results = run_checkpoints(tables, suite_parameters(params), output / DATA_DOCS.name)
    (output / DATA_DOCS.name / DOCS_OF.name).write_text(sha256_of(output / MANIFEST.name), "utf-8")
    verdict = judge(tables, results, params)
    text = json.dumps(asdict(verdict), indent=2, ensure_ascii=False)
    (output / VALIDATION.name).write_text(text + "\n", encoding="utf-8")
    page = output / VALIDATION_PAGE.name
    page.write_text(render_page(verdict, manifest, data, [f"{DATA_DOCS.name}/{name}.html" for name in tables]), "utf-8")
    if not verdict.success:
        raise Refused(complaint(verdict, data, page))
    return verdict
