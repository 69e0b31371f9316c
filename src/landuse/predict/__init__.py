"""Predict: a registered model on image files, folders of them, and patterns."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from landuse.core.errors import LanduseError, escaped, printable
from landuse.core.progress import track
from landuse.ml.classifier import Classifier
from landuse.ml.images import map_ahead
from landuse.predict.output import Output, growing_file, refuse_unwritable, standard_output
from landuse.predict.rows import Answer
from landuse.predict.sources import Found, find_images, refuse_missing
from landuse.predict.tally import Tally
from landuse.registry import resolve


def predict(paths: list[str], model: str, output: Path | None, int8: bool = False) -> Tally:
    """Write one row per image, to a file that is gone on with where it was left, or as CSV to standard output.

    Returns the counts of all rows of the output. Raises LanduseError where nothing can be begun.
    """
    refuse_missing(paths)
    if output:
        refuse_unwritable(output)
    if next(find_images(paths), None) is None:
        raise LanduseError(f"{', '.join(paths)}: there is no image")
    name, classifier = resolve.load(model, int8)
    destination = growing_file(output, classifier.labels, name) if output else standard_output(classifier.labels, name)
    with destination as rows:
        total = sum(1 for _ in new_images(paths, rows))
        answers = map_ahead(partial(answer, classifier), new_images(paths, rows))
        for said in track(answers, total, "predict", stderr=True):
            rows.write(said)
    return rows.tally


def new_images(paths: list[str], rows: Output) -> Iterator[Found]:
    """What is not in the output yet."""
    return (found for found in find_images(paths) if text(found.path) not in rows)


def answer(classifier: Classifier, found: Found) -> Answer:
    """The prediction for a file, or why there is none."""
    if found.trouble:
        return Answer(text(found.path), error=found.trouble)
    try:
        return Answer(text(found.path), prediction=classifier.predict(found.path))
    except LanduseError as error:
        return Answer(text(found.path), error=str(error).removeprefix(f"{printable(found.path)} "))


def text(path: Path) -> str:
    """A path on one line of valid UTF-8, whatever the file system let into it."""
    return escaped(str(path))
