"""Which model answers: the one that an alias or version of the registry stands for, or an exported folder."""

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
from landuse.ml.images import cores, map_ahead

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
NOT_OURS = re.compile(": dvc repro makes it( again)?$")  # it makes artifacts/model, and no other
REMEDY = "name a model as models:/NAME@ALIAS, models:/NAME/VERSION or a folder"


def load(model: str, int8: bool = False) -> tuple[str, Classifier]:
    """The classifier, and a name for it that never comes to mean another: the version, or the digest of a folder's.

    Takes what `model_folder` takes. Raises LanduseError also for a model that cannot tell when it is unsure.
    """
    with model_folder(model) as (version, folder):
        return open_model(model, version, folder, int8)


def open_model(model: str, version: str | None, folder: Path, int8: bool) -> tuple[str, Classifier]:
    """What `load` returns, for a model whose folder is at hand: loaded whole, and tried before anybody asks it."""
    title = version or model
    try:
        classifier = Classifier(folder, int8)
    except LanduseError as error:
        complaint = str(error) if folder == MODEL else NOT_OURS.sub(": name another model", str(error))
        raise LanduseError(complaint.replace(str(folder), title)) from None
    except TypeError as error:
        raise LanduseError(f"{title} is damaged: its model.json is no card of a model ({error})") from None
    if not isinstance(classifier.unsure_below, int | float):
        raise LanduseError(f"{title} has no {unsure_key(int8)} in its model.json: train and register it anew")
    name = answering(version or f"sha256:{classifier.digest[:16]}", int8)
    warm_up(name, classifier)
    return name, classifier


def warm_up(version: str, classifier: Classifier) -> None:
    """Let every core look at a blank image, so that the first request waits for nothing.

    Raises LanduseError where the model does not run, or answers what is no probability of each class.
    """
    blank = np.zeros((classifier.image_size, classifier.image_size, 3), np.uint8)
    try:
        said = np.stack(list(map_ahead(classifier.model, [blank] * cores())))
    except (ValueError, RuntimeError) as error:
        raise LanduseError(f"{version} does not run: {one_line(error, 160)}") from None
    if said.shape[1:] != (len(classifier.labels),) or not np.isfinite(said).all():
        raise LanduseError(f"{version} does not answer with one probability for each of its classes")


def answering(version: str, int8: bool) -> str:
    """The name of a version as answers give it: whether it calculates in int8 is part of it."""
    return f"{version} in int8" if int8 else version


@contextmanager
def model_folder(model: str) -> Iterator[tuple[str | None, Path]]:
    """The version and the files of `models:/NAME@ALIAS` or `models:/NAME/VERSION`; or of a folder, without a version.

    What comes from the registry is there within the context only. Raises LanduseError where there is no such model.
    """
    if not model.startswith("models:"):
        if not (Path(model) / CARD_FILE).exists():
            raise LanduseError(f"{model} is no folder with {CARD_FILE}; {REMEDY}")
        yield None, Path(model)
        return
    with TemporaryDirectory(prefix="landuse-") as folder:
        with collecting_no_garbage():
            fetched = fetch(model, Path(folder))
        yield fetched


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """While MLflow is imported: searching its many new objects for garbage takes a second and finds none."""
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
    """Copy the files of a registered model into a folder; returns `models:/NAME/VERSION` and where they are."""
    name, number = resolve(model)
    from landuse import registry
    from landuse.tracking.backend_store import reach

    with reach():
        registry.fetch_model(registry.get_version(name, number), folder)
    return f"models:/{name}/{number}", folder / registry.MODEL_FOLDER


def follows(model: str) -> bool:
    """Whether it is an alias, which may come to mean another version."""
    asked = REGISTERED.fullmatch(model)
    return bool(asked and asked["alias"])


def resolve(model: str) -> tuple[str, str]:
    """Name and number of the version that an alias or number of the registry stands for now.

    Raises LanduseError where it stands for none, and Unavailable where the registry does not answer.
    """
    asked = REGISTERED.fullmatch(model)
    if not asked:
        raise LanduseError(f"{model}: {REMEDY}")
    from landuse import registry
    from landuse.tracking.backend_store import reach

    name, alias, number = asked.groups()
    with reach() as uri:
        registry.refuse_missing(uri)
        number = number or registry.aliases(name).get(alias)
        if number is None:
            raise LanduseError(
                f"no version of {name} is {alias}: landuse promote judges the one registered last, "
                "landuse history and landuse info show which there are"
            )
    return name, number
