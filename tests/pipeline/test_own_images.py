"""One's own images, from a folder to a page with a verdict, as the how-to tells it: no params are edited by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from workspace import ROOT, SIDE, Workspace, copy_project, write_weights

from landuse import sample

COLOURS = {"beach": "orange", "farmland": "blue", "forest": "green", "harbor": "red"}
TINT = 0.65  # share of the colour, by which a network that has learned nothing tells the classes apart
SHUFFLED = ("beach", "harbor")
IMAGES = 35  # of a class
WEIGHTS = "full.weights.h5"
JUDGE = """
from landuse import registry, tracking
from landuse.gate import judge
from landuse.params import load_params

params = load_params()
with tracking.store():
    version = registry.get_version(params.register.model, "1")
    print("verdict", judge(version, None, params.promote, params.evaluate, print).verdict)
"""


def test_a_folder_of_images_becomes_a_judged_model_and_shuffled_labels_are_refused(
    untouched: Workspace, tmp_path: Path
) -> None:
    images, work = draw_images(tmp_path / "Own images"), fresh_project(untouched, tmp_path / "project")
    printed = work.ok("landuse", "init", str(images), "--name", "own", LANDUSE_WEIGHTS="")
    assert "the file in weights/ that fits mobilenet_v2 1.0\n" in printed and WEIGHTS in printed
    assert "params.yaml is written; next: make run trains and judges a first model" in printed

    assert "140 images in 4 classes from Own images" in work.ok("landuse", "ingest")
    work.ok("dvc", "repro")
    assert "own version 1 is the champion" in work.ok("landuse", "promote")
    page = (work.folder / "artifacts" / "report.html").read_text()
    assert "own version 1" in page and "passed" in page and "no families are named" in page

    before = read_params(work)
    assert "promote.families" in work.ok("landuse", "thresholds", "--apply")
    after = read_params(work)
    assert after["promote"]["min_accuracy"] > before["promote"]["min_accuracy"]
    assert {**before, "promote": None} == {**after, "promote": None}
    assert "verdict passed" in work.ok("python", "-c", JUDGE), "the model passes the limits that it led to"

    shuffle_labels(images, tmp_path / "shuffled")
    work.ok("landuse", "ingest", str(tmp_path / "shuffled"))
    work.ok("dvc", "repro")
    assert "own version 2 is refused" in work.refused("landuse", "promote")
    checks = json.loads((work.folder / "artifacts" / "blessing.json").read_text())["checks"]
    failed = {check["name"] for check in checks if check["judged"] and not check["passed"]}
    assert {"accuracy", "class_recall"} <= failed
    assert "own version 2" in (work.folder / "artifacts" / "report.html").read_text()


def draw_images(folder: Path) -> Path:
    """Draw a folder `<class>/<image>` of scenes, each class in its colour."""
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        for number in range(IMAGES):
            scene = sample.draw(label, number).resize((SIDE, SIDE))
            tinted = Image.blend(scene, Image.new("RGB", scene.size, colour), TINT)
            tinted.save(folder / label / f"{number}.png")
    return folder


def fresh_project(untouched: Workspace, folder: Path) -> Workspace:
    """Copy a project in which nothing ran, with the params that it comes with, and weights of full width."""
    work = copy_project(untouched, folder)
    (work.folder / "params.yaml").write_bytes((ROOT / "presets" / "sample.yaml").read_bytes())
    write_weights(work.folder / "weights" / WEIGHTS, alpha=1.0)
    work.commit()
    return work


def read_params(work: Workspace) -> dict:
    return yaml.safe_load((work.folder / "params.yaml").read_text())


def shuffle_labels(source: Path, target: Path) -> None:
    """Copy images, and divide those of two classes between the two by chance."""
    shutil.copytree(source, target)
    paths = sorted(path for label in SHUFFLED for path in (target / label).iterdir())
    for index, position in enumerate(np.random.default_rng(1).permutation(len(paths))):
        paths[index].rename(target / SHUFFLED[position % 2] / f"{paths[index].parent.name}-{paths[index].name}")
