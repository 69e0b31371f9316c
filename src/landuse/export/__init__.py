"""Export: a registered model as plain files, for use without this project."""

from pathlib import Path
from shutil import copy, copytree

from landuse import champion
from landuse.classifier import Classifier
from landuse.errors import LanduseError

EXAMPLE = Path(__file__).with_name("example.py")


def export(folder: Path, model: str) -> str:
    """Write the Keras file, the LiteRT files in float32 and int8, card, labels and an example into a new folder.

    Returns what int8 costs in accuracy. Raises LanduseError where the folder is not empty or there is no such model.
    """
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise LanduseError(f"{folder} is there and not empty: name a new folder")
    with champion.model_folder(model) as (_, source):
        classifier = Classifier(source)
        copytree(source, folder, dirs_exist_ok=True)
    (folder / "labels.txt").write_text("\n".join(classifier.labels) + "\n", encoding="utf-8")
    copy(EXAMPLE, folder)
    found = classifier.card["validation"]
    return (
        f"{folder}: float32 gets {found['accuracy']:.1%} of {found['images']} validation images right, "
        f"int8 {found['int8_accuracy']:.1%}"
    )
