"""Resolve a model name: an alias or a version of the registry, or an exported folder."""

import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from landuse.core.errors import LanduseError, one_line
from landuse.core.paths import MODEL
from landuse.ml.classifier import CARD_FILE, Classifier, unsure_key
from landuse.ml.images import cores, parallel_map

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
DVC_REMEDY = re.compile(": dvc repro makes it( again)?$")  # true of artifacts/model only
REMEDY = "name a model as models:/NAME@ALIAS, models:/NAME/VERSION or a folder"


def load(model: str, int8: bool = False) -> tuple[str, Classifier]:
    """Load the classifier; return an immutable name for it (version, or digest of a folder's model) and the classifier.

    Accepts the same names as `model_folder`. Raises LanduseError also if the model has no threshold for being unsure.
    """
    with model_folder(model) as (version, folder):
        return open_model(model, version, folder, int8)


def open_model(model: str, version: str | None, folder: Path, int8: bool) -> tuple[str, Classifier]:
    """Load a model from its folder and warm it up; return what `load` returns."""
    title = version or model
    try:
        classifier = Classifier(folder, int8)
    except LanduseError as error:
        complaint = str(error) if folder == MODEL else DVC_REMEDY.sub(": name another model", str(error))
        raise LanduseError(complaint.replace(str(folder), title)) from None
    except TypeError as error:
        raise LanduseError(f"{title} is damaged: its model.json is no card of a model ({error})") from None
    if not isinstance(classifier.unsure_below, int | float):
        raise LanduseError(f"{title} has no {unsure_key(int8)} in its model.json: train and register it anew")
    name = display_name(version or f"sha256:{classifier.digest[:16]}", int8)
    warm_up(name, classifier)
    return name, classifier


def warm_up(version: str, classifier: Classifier) -> None:
    """Classify a blank image on every core, so that the first request does not wait for interpreters to start.

    Raises LanduseError if the model does not run, or does not return one finite probability per class.
    """
    blank = np.zeros((classifier.image_size, classifier.image_size, 3), np.uint8)
    try:
        outputs = np.stack(list(parallel_map(classifier.model, [blank] * cores())))
    except (ValueError, RuntimeError) as error:
        raise LanduseError(f"{version} does not run: {one_line(error, 160)}") from None
    if outputs.shape[1:] != (len(classifier.labels),) or not np.isfinite(outputs).all():
        raise LanduseError(f"{version} does not answer with one probability for each of its classes")


def display_name(version: str, int8: bool) -> str:
    """Return the name of a version as responses give it, which says if it runs in int8."""
    return f"{version} in int8" if int8 else version


@contextmanager
def model_folder(model: str) -> Iterator[tuple[str | None, Path]]:
    """Yield version and folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION`; for a folder, None and the folder.

    Files from the registry exist within the context only. Raises LanduseError if there is no such model.
    """
    if not model.startswith("models:"):
        if not (Path(model) / CARD_FILE).exists():
            raise LanduseError(f"{model} is no folder with {CARD_FILE}; {REMEDY}")
        yield None, Path(model)
        return
    with TemporaryDirectory(prefix="landuse-") as folder:
        with garbage_collection_paused():
            fetched = fetch(model, Path(folder))
        yield fetched


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection while MLflow is imported: scanning its many new objects takes a second, for nothing."""
    if "mlflow" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def fetch(model: str, folder: Path) -> tuple[str, Path]:
    """Copy the files of a registered model into a folder; return `models:/NAME/VERSION` and the model's folder."""
    name, number = resolve(model)
    from landuse import registry
    from landuse.tracking.backend_store import connect

    with connect():
        registry.fetch_model(registry.get_version(name, number), folder)
    return f"models:/{name}/{number}", folder / registry.MODEL_FOLDER


def is_alias(model: str) -> bool:
    """Return whether the name is an alias, which may move to another version."""
    match = REGISTERED.fullmatch(model)
    return bool(match and match["alias"])


def resolve(model: str) -> tuple[str, str]:
    """Return name and number of the version that an alias or version name refers to now.

    Raises LanduseError if it refers to none, and Unavailable if the registry does not answer.
    """
    match = REGISTERED.fullmatch(model)
    if not match:
        raise LanduseError(f"{model}: {REMEDY}")
    from landuse import registry
    from landuse.tracking.backend_store import connect

    name, alias, number = match.groups()
    with connect() as uri:
        registry.refuse_missing_store(uri)
        aliases = registry.aliases(name)
        number = number or aliases.get(alias)
        if number is None:
            raise LanduseError(f"no version of {name} is {alias}: {remedy_for_alias(name, aliases)}")
    return name, number


def remedy_for_alias(name: str, aliases: dict[str, str]) -> str:
    """Suggest what to do if no version has an alias: judge the challenger, or use it as it is."""
    from landuse.registry import CHALLENGER

    if number := aliases.get(CHALLENGER):
        use = f"--model models:/{name}@{CHALLENGER} uses it as it is"
        return f"version {number} is the challenger: landuse promote judges it, {use}"
    return "dvc repro registers one as challenger; landuse history and landuse info show which there are"
