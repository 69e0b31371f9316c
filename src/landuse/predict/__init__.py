"""Predict: classify image files, folders and patterns with a registered model."""

from collections.abc import Iterable, Iterator
from itertools import tee
from pathlib import Path

from landuse.core.errors import LanduseError, escape
from landuse.core.progress import track
from landuse.ml.classification import ClassificationTask
from landuse.ml.classifier import Classifier
from landuse.ml.image_file import ImageFile
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.predict.output import Output, append_to_file, require_writable, standard_output
from landuse.predict.rows import ImageResult
from landuse.predict.sources import FoundImage, find_images, require_existing
from landuse.predict.tally import Tally
from landuse.registry import resolve


def predict(paths: list[str], model: str, output: Path | None, int8: bool = False, pool: Pool = THIS_PROCESS) -> Tally:
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
        results = predict_images(new_images(paths, rows), classifier, pool)
        for result in track(results, total, "predict", stderr=True):
            rows.write(result)
    return rows.tally


def new_images(paths: list[str], rows: Output) -> Iterator[FoundImage]:
    """Find the images that are not in the output yet."""
    return (image for image in find_images(paths) if path_text(image.path) not in rows)


def predict_images(images: Iterable[FoundImage], classifier: Classifier, pool: Pool) -> Iterator[ImageResult]:
    """Yield the prediction for each image, or why there is none."""
    found, readable = tee(images)
    task = ClassificationTask(classifier.model.flatbuffer, classifier.image_size)
    files = (ImageFile(image.path, pool.locate([image.path])[0]) for image in readable if not image.problem)
    answers = pool.map(task, files)
    for image in found:
        answer = image.problem or next(answers)
        if isinstance(answer, str):
            yield ImageResult(path_text(image.path), error=answer)
        else:
            yield ImageResult(path_text(image.path), prediction=classifier.to_prediction(answer))
    next(answers, None)  # so that it ends


def path_text(path: Path) -> str:
    """Return a path as one line of valid UTF-8, escaping line breaks and undecodable bytes."""
    return escape(str(path))
