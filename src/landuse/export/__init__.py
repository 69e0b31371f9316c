"""Export: write a registered model as plain files, for use without this project."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import Error, copy, copytree, rmtree

from landuse.core.errors import LanduseError
from landuse.registry import resolve

EXAMPLE = Path(__file__).with_name("example.py")


def export(folder: Path, model: str) -> str:
    """Write the Keras file, the LiteRT files in float32 and int8, card, labels and an example into a new folder.

    Returns a sentence with the accuracy of both formats. Raises LanduseError if the folder is not empty or cannot be
    written, or the model does not exist.
    """
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise LanduseError(f"{folder} is there and not empty: name a new folder")
    with resolve.model_folder(model) as (version, source):
        resolve.open_model(model, version, source, int8=True)  # only to check that it loads
        _, classifier = resolve.open_model(model, version, source, int8=False)
        validation = classifier.card.get("validation")
        if validation is None:
            raise LanduseError(f"{model} has no validation in its model.json: train and register it anew")
        with all_or_nothing(folder):
            copytree(source, folder, dirs_exist_ok=True)
            (folder / "labels.txt").write_text("\n".join(classifier.labels) + "\n", encoding="utf-8")
            copy(EXAMPLE, folder)
    return (
        f"{folder}: float32 gets {validation['accuracy']:.1%} of {validation['images']} validation images right, "
        f"int8 {validation['int8_accuracy']:.1%}"
    )


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """Restore an empty or missing folder if filling it fails. Raises LanduseError with the reason if writing failed."""
    existed = folder.exists()
    try:
        yield
    except BaseException as error:
        rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir(exist_ok=True)
        if not isinstance(error, OSError):
            raise
        reason = error.args[0][0][2].partition(": ")[0] if isinstance(error, Error) else error.strerror
        raise LanduseError(f"{folder} cannot be written: {reason}; fix that, or name another folder") from None
