"""Predict: classify image files, folders and patterns with a registered model."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from landuse.core.errors import LanduseError, escape, printable
from landuse.core.progress import track
from landuse.ml.classifier import Classifier
from landuse.ml.images import parallel_map
from landuse.predict.output import Output, append_to_file, require_writable, standard_output
from landuse.predict.rows import ImageResult
from landuse.predict.sources import ImageFile, find_images, require_existing
from landuse.predict.tally import Tally
from landuse.registry import resolve


def predict(paths: list[str], model: str, output: Path | None, int8: bool = False) -> Tally:
    """Write one row per image to a file, continuing an unfinished one, or as CSV to standard output.

    Returns the counts of all rows of the output. Raises LanduseError if the work cannot start.
    """
    require_existing(paths)
    if output:
        require_writable(output)
    if next(find_images(paths), None) is None:
        raise LanduseError(f"{', '.join(paths)}: there is no image")
    name, classifier = resolve.load(model, int8)
    labels = classifier.labels
    destination = append_to_file(output, labels, name) if output else standard_output(labels, name)
    with destination as rows:
        total = sum(1 for _ in new_images(paths, rows))
        results = parallel_map(partial(predict_file, classifier), new_images(paths, rows))
        for result in track(results, total, "predict", stderr=True):
            rows.write(result)
    return rows.tally


def new_images(paths: list[str], rows: Output) -> Iterator[ImageFile]:
    """Find the images that are not in the output yet."""
    return (image for image in find_images(paths) if path_text(image.path) not in rows)


def predict_file(classifier: Classifier, image: ImageFile) -> ImageResult:
    """Return the prediction for a file, or why there is none."""
    if image.problem:
        return ImageResult(path_text(image.path), error=image.problem)
    try:
        return ImageResult(path_text(image.path), prediction=classifier.predict(image.path))
    except LanduseError as error:
        return ImageResult(path_text(image.path), error=str(error).removeprefix(f"{printable(image.path)} "))


def path_text(path: Path) -> str:
    """Return a path as one line of valid UTF-8, escaping line breaks and undecodable bytes."""
    return escape(str(path))
