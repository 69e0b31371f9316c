"""A fixture shared by the ingest tests: a project with data."""

from pathlib import Path
from shutil import copytree

import pytest
from archives import CHECKS, ingest_source, pictures, set_requirements, zip_of

from landuse import ingest


@pytest.fixture
def settled(project: Path, tmp_path_factory: pytest.TempPathFactory) -> ingest.IngestResult:
    """The project after ingesting `pictures()` from ../set.zip; ingested once and copied from then on."""
    template = tmp_path_factory.getbasetemp() / "settled"
    archive = zip_of(project.parent / "set.zip", pictures())
    if template.exists():
        copytree(template, project, dirs_exist_ok=True)
    else:
        set_requirements(CHECKS)
        ingest_source(archive)
        copytree(project, template)
    return ingest.to_result(ingest.read_metadata(), changed=True)
