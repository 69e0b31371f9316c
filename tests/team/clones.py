"""Clones of the project, as a team works in them."""

from pathlib import Path

import tiny
from workspace import LENIENT_GATE, NOT_YET, ROOT, Workspace, clone


def sample_clone(folder: Path) -> Workspace:
    """Clone this project to train on its sample, with no schedule."""
    work = Workspace(folder / "project", folder / "project" / "weights" / "scenes.weights.h5")
    clone(work.folder)
    (work.folder / "params.yaml").write_bytes((ROOT / "presets" / "sample.yaml").read_bytes())
    return without_schedule(work)


def tiny_clone(folder: Path) -> Workspace:
    """Clone this project to train on a few tiny images, with a gate that anything passes and no schedule."""
    images = folder / "images"
    for label in tiny.LABELS:
        (images / label).mkdir(parents=True)
        for number in range(tiny.IMAGES):
            tiny.scene(label, number).save(images / label / f"{number:02}.png")
    work = Workspace(folder / "project", Path(tiny.WEIGHTS))
    clone(work.folder)
    tiny.write_params(
        work.folder, tiny.CHANGES | {"promote": LENIENT_GATE | {"families": []}, "data": {"source": str(images)}}
    )
    return without_schedule(work)


def without_schedule(work: Workspace) -> Workspace:
    """Commit a clone, with a schedule that is not due."""
    work.replace("prefect.yaml", "0 3 * * *", NOT_YET)
    work.commit()
    return work
