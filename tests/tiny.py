"""A project so small that every stage runs in seconds: three classes of twelve generated images."""

import json
import os
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import numpy as np
import yaml
from PIL import Image

from landuse.ml import features

ROOT = Path(__file__).parents[1]
WITHOUT_BYTECODE = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # a file size limit would truncate the bytecode
WEIGHTS = str(ROOT / "weights" / "scenes.weights.h5")
LABELS = ("field", "forest", "water")
IMAGES = 12
SIDE = 64
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
COLOURS = {"field": (190, 160, 90), "forest": (40, 90, 40), "water": (40, 80, 170)}
CHANGES = {
    "validate": {
        "classes": list(LABELS),
        "images_per_class": 2,
        "imbalance": 3.0,
        "size": SIDE,
        "smallest": 16,
        "contrast": 1,
    },
    "extract": {"backbone": "mobilenet_v2", "alpha": 0.35, "image_size": 64, "weights": WEIGHTS, "views": 8},
    "split": {"validation": 0.25, "test": 0.25, "cosine": 1.0, "hash_distance": 0, "seed": 1},
    "train": {
        "unfreeze_from": "head",
        "epochs": 6,
        "batch_size": 8,
        "learning_rate": 0.02,
        "warmup": 0.1,
        "weight_decay": 0.0001,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "dropout": 0.0,
        "patience": 6,
        "target_selective_accuracy": 0.99,
        "tta_views": 1,
        "seed": 1,
    },
    "promote": {"families": []},
    "evaluate": {"calibration_bins": 10, "mistakes": 6, "latency_runs": 3},
}


def scene(label: str, number: int) -> Image.Image:
    """Generate stripes, noise or waves in the colour of the class; each number gives another image."""
    random = np.random.default_rng([LABELS.index(label), number])
    row, column = np.mgrid[:SIDE, :SIDE]
    phase = random.uniform(0, 6)
    pattern = {
        "field": 60 * np.sign(np.sin(row / 3 + phase)),
        "forest": 30 * random.standard_normal((SIDE, SIDE)),
        "water": 20 * np.sin(column / 9 + phase),
    }
    patches = np.kron(random.normal(0, 8, (8, 8)), np.ones((SIDE // 8, SIDE // 8)))
    levels = np.array(COLOURS[label]) + (pattern[label] + patches)[..., None]
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def params_with(changes: dict[str, dict]) -> dict[str, dict]:
    """Return the tiny project's params with some keys replaced."""
    return {name: keys | changes.get(name, {}) for name, keys in CHANGES.items()}


def write_params(folder: Path, changes: dict[str, dict]) -> None:
    """Write params.yaml: the sample preset with some keys replaced."""
    content = yaml.safe_load((ROOT / "presets" / "sample.yaml").read_text("utf-8"))
    for name, keys in changes.items():
        content[name] |= keys
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def mark_features_current() -> None:
    """Mark the features as extracted from the current manifest."""
    metadata = json.loads(features.METADATA.read_text()) | {"manifest_sha256": features.manifest_digest()}
    features.METADATA.write_text(json.dumps(metadata))


def make_images(folder: Path, images: int = IMAGES) -> None:
    """Create some images of each class in `data/`."""
    for label in LABELS:
        (folder / "data" / label).mkdir(parents=True)
        for number in range(images):
            scene(label, number).save(folder / "data" / label / f"{number:02}.png")


def make_project(folder: Path, images: int = IMAGES) -> None:
    """Create images, params, stages, the record that ingestion leaves of the data, and the expectation suites."""
    make_images(folder, images)
    record = {"outs": [{"md5": DATA_MD5, "path": "data"}], "meta": {"source": "tiny.zip"}}
    (folder / "data.dvc").write_text(yaml.safe_dump(record), "utf-8")
    write_params(folder, CHANGES)
    copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    copytree(ROOT / "gx", folder / "gx", ignore=ignore_patterns("uncommitted"))
