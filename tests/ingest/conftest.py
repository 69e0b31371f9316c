"""What the tests of ingestion share: a project that has data."""

from pathlib import Path
from shutil import copytree

import pytest
from archives import CHECKS, ask_for, bring_in, pictures, zip_of

from landuse import ingest as room


@pytest.fixture
def settled(project: Path, tmp_path_factory: pytest.TempPathFactory) -> room.Ingested:
    """The project after it took in `pictures()` from set.zip beside it: done once, copied from then on."""
    template = tmp_path_factory.getbasetemp() / "settled"
    archive = zip_of(project.parent / "set.zip", pictures())
    if template.exists():
        copytree(template, project, dirs_exist_ok=True)
    else:
        ask_for(CHECKS)
        bring_in(archive)
        copytree(project, template)
    return room.outcome(room.recorded(), changed=True)
