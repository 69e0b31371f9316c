"""The evidence: held-out images of a version, and what a model makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from landuse import registry
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import sha256_of
from landuse.core.paths import DATA, DATA_DVC
from landuse.ml.classifier import Classifier
from landuse.ml.metrics import held_out_images
from landuse.ml.perceptual_hash import PLAIN, TURNED, near, numbers, views
from landuse.project import lineage
from landuse.registry import title
from landuse.registry.version_record import splits_of

SAVED_ANEW = 2  # bits of 64 in which the perceptual hashes of an image and of its copy in another encoding may differ


@dataclass(frozen=True)
class Evidence:
    """What a model makes of images, row by row.

    `table` has one row per image: path, label, group, sha256 and both hashes; `actual` [images] are places in `labels`;
    `probabilities` is [images, classes].
    """

    table: pd.DataFrame
    labels: list[str]
    actual: NDArray[np.intp]
    probabilities: NDArray[np.float32]

    @property
    def images(self) -> list[Path]:
        return [DATA / path for path in self.table["path"]]

    @property
    def predicted(self) -> NDArray[np.intp]:
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.predicted == self.actual

    @property
    def recall(self) -> pd.Series:
        """The share of each class's images that were recognised, by label; nan for a class without images."""
        return pd.Series(self.correct).groupby(np.array(self.labels)[self.actual]).mean().reindex(self.labels)

    def only(self, rows: NDArray[np.bool_]) -> "Evidence":
        """The same of some images."""
        return Evidence(self.table[rows], self.labels, self.actual[rows], self.probabilities[rows])


@dataclass(frozen=True)
class Facing:
    """Two versions on the held-out images of the first, without those that the second had part of in its training.

    `seen` images were left out for themselves, `alike` ones because a near-duplicate of them was seen.
    """

    challenger: Evidence
    opponent: Evidence
    seen: int
    alike: int


@contextmanager
def undisturbed() -> Iterator[None]:
    """Raise Unavailable, whatever came of it, where other images took the place of data/ meanwhile."""
    before = place_of_data()
    try:
        yield
    finally:
        if place_of_data() != before:
            raise Unavailable("data/ was replaced while its images were looked at: try again")


def place_of_data() -> int | None:
    """What tells the folder data/ from another that takes its place; None where there is none."""
    return DATA.stat().st_ino if DATA.exists() else None


def held_out_here(version: ModelVersion, splits: pd.DataFrame) -> pd.DataFrame:
    """The held-out images of a version in data/: one row each, path, label, group, hashes, sha256 of the file now.

    Raises LanduseError where data/ is not the data set of the version.
    """
    wanted, here = version.tags.get("data.md5"), lineage.data_record()["md5"]
    if wanted != here:
        commit, source = lineage.commit_of_data(wanted), version.tags.get("data.source")
        known = f"git checkout {commit} {DATA_DVC} && dvc pull {DATA_DVC}"
        remedy = known if commit else f"git fetch where others committed it, or ingest {source} again"
        raise LanduseError(f"{title(version)} was trained on data {wanted}, {DATA_DVC} says {here}: {remedy}")
    held_out = held_out_images(splits)
    try:
        found = [sha256_of(DATA / path) for path in held_out["path"]]
    except OSError as error:
        raise LanduseError(
            f"{error.filename}, an image of {title(version)}, cannot be read: dvc pull {DATA_DVC}"
        ) from None
    edited = held_out["path"][held_out["sha256"].notna() & (held_out["sha256"] != found)]
    if len(edited):
        raise LanduseError(
            f"{DATA / edited.iloc[0]} was edited since {title(version)} was trained: dvc checkout --force data"
        )
    return held_out[["path", "label", "group", PLAIN, TURNED]].assign(sha256=found).reset_index(drop=True)


def are_here(version: ModelVersion) -> bool:
    """Whether data/ holds the held-out images of a version as they were."""
    try:
        held_out_here(version, splits_of(version))
    except LanduseError:
        return False
    return True


def seen(held_out: pd.DataFrame, splits: pd.DataFrame) -> NDArray[np.bool_]:
    """Which held-out images [images] another version had in its training, be it to learn or to stop.

    What it is scored on itself does not count, which are validation images where it has no test subset.
    The same image, saved anew or turned or not, is known by its content where the other version's run tells that, and
    by its path otherwise.
    """
    known = splits.drop(held_out_images(splits).index)
    same = held_out["sha256"].isin(known["sha256"].dropna())
    named = held_out["path"].isin(known["path"][known["sha256"].isna()])
    return (same | named).to_numpy() | are_near(held_out, known[PLAIN].dropna())


def are_near(held_out: pd.DataFrame, known: pd.Series) -> NDArray[np.bool_]:
    """Which images [images] have, in one of eight views, nearly a hash that is known; no image without hashes does."""
    found, told, bits = np.zeros(len(held_out), bool), held_out[PLAIN].notna().to_numpy(), numbers(known)
    found[told] = [near(bits, every[None], SAVED_ANEW).any() for every in views(held_out[told])]
    return found


def lookalikes(held_out: pd.DataFrame, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the other held-out images [images] are in one group of near-duplicates with one that is known."""
    return held_out["group"].isin(held_out["group"][known]).to_numpy() & ~known


def gather(classifier: Classifier, table: pd.DataFrame) -> Evidence:
    """Let a classifier look at the images of a table. Raises LanduseError where it answers with what is no number."""
    actual = np.array([classifier.labels.index(label) for label in table["label"]])
    probabilities = np.stack(list(classifier.probabilities_of(DATA / path for path in table["path"])))
    if not np.isfinite(probabilities).all():
        raise LanduseError("the model answers with values that are no numbers: train another")
    return Evidence(table, classifier.labels, actual, probabilities)


def own_evidence(version: ModelVersion, folder: Path) -> tuple[Classifier, Evidence]:
    """A version, whose files go into the folder, and what it makes of its own held-out images.

    Raises LanduseError where its files are damaged, or data/ is another data set.
    """
    classifier = registry.fetch_model(version, folder)
    table = held_out_here(version, splits_of(version))
    strange = sorted({*table["label"]} - {*classifier.labels})
    if strange:
        raise LanduseError(f"{title(version)} is damaged: it does not know the class {strange[0]} it was trained on")
    return classifier, gather(classifier, table)


def facing(version: ModelVersion, evidence: Evidence, folder: Path) -> Facing:
    """Another version beside `evidence`, on those of its images that say something of both.

    Raises LanduseError where there is no such image, or the other version cannot be loaded or knows other classes.
    """
    classifier = registry.fetch_model(version, folder)
    odd = sorted({*classifier.labels} ^ {*evidence.labels})
    if odd:
        raise LanduseError(
            f"{title(version)} knows other classes, only one of the two knows {', '.join(odd)}: "
            "models of other classes need a register.model of their own"
        )
    known = seen(evidence.table, splits_of(version))
    alike = lookalikes(evidence.table, known)
    fresh = ~(known | alike)
    if not fresh.any():
        count = f"every one of the {len(fresh)} held-out images"
        raise LanduseError(f"{title(version)} was trained on {count}{' or its near-duplicate' if alike.any() else ''}")
    opponent = gather(classifier, evidence.table[fresh])
    return Facing(evidence.only(fresh), opponent, int(known.sum()), int(alike.sum()))
