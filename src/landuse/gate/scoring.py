"""Scoring: predictions of models on the held-out images of a version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

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
from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED, parse_hashes, view_hashes, within_distance
from landuse.project import lineage
from landuse.registry import title
from landuse.registry.version_record import read_splits
from landuse.tracking.names import facts_of

REENCODING_BITS = 2  # of 64: the most by which the perceptual hashes of an image and its re-encoded copy differ


@dataclass(frozen=True)
class ScoredImages:
    """Labelled images and a model's predictions for them, row by row.

    `table` has one row per image: path, label, group, sha256 and both hashes. `actual` [images] holds indices into
    `labels`; `probabilities` is [images, classes]. Answers below the confidence `unsure_below` are unsure; models from
    before it existed have none.
    """

    table: pd.DataFrame
    labels: list[str]
    actual: NDArray[np.intp]
    probabilities: NDArray[np.float32]
    unsure_below: float | None = None

    @property
    def images(self) -> list[Path]:
        """Paths of the image files."""
        return [DATA / path for path in self.table["path"]]

    @property
    def predicted(self) -> NDArray[np.intp]:
        """Index of the most probable class [images]."""
        predicted: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return predicted

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Mask of correctly classified images [images]."""
        return np.equal(self.predicted, self.actual)

    @property
    def recall(self) -> "pd.Series[float]":
        """Recall by label; NaN for a class without images."""
        return pd.Series(self.correct).groupby(np.array(self.labels)[self.actual]).mean().reindex(self.labels)

    @property
    def coverage(self) -> float | None:
        """Share of the images whose answer is sure; None if the model does not tell."""
        if self.unsure_below is None:
            return None
        return float((self.probabilities.max(axis=1) >= self.unsure_below).mean())

    def select(self, mask: NDArray[np.bool_]) -> Self:
        """Select some images by a mask [images]."""
        return replace(self, table=self.table[mask], actual=self.actual[mask], probabilities=self.probabilities[mask])


@dataclass(frozen=True)
class PairedComparison:
    """Two versions scored on the held-out images of the first that the second did not see in its training.

    `seen` images were left out because the second saw them, `near_duplicates` because it saw a near-duplicate of them.
    """

    challenger: ScoredImages
    opponent: ScoredImages
    seen: int
    near_duplicates: int


@contextmanager
def data_unchanged() -> Iterator[None]:
    """Raise Unavailable at the end, even in place of another error, if data/ was replaced meanwhile."""
    before = data_inode()
    try:
        yield
    finally:
        if data_inode() != before:
            raise Unavailable("data/ was replaced while its images were scored: try again")


def data_inode() -> int | None:
    """Return the inode of data/, which changes if another folder takes its place; None if it does not exist."""
    return DATA.stat().st_ino if DATA.exists() else None


def verified_held_out(version: ModelVersion, splits: pd.DataFrame) -> pd.DataFrame:
    """Return the held-out images of a version, one row each, after comparing them with the files in data/.

    Columns are path, label, group, both hashes, and the sha256 of the current file. Raises LanduseError if data/ is not
    the data set of the version, or an image was edited or cannot be read.
    """
    facts, current = facts_of(version.tags), lineage.data_record()["md5"]
    expected = facts.get("data.md5", "unknown")
    if expected != current:
        commit, source = lineage.find_data_commit(expected), facts.get("data.source")
        checkout = f"git checkout {commit} {DATA_DVC} && dvc pull {DATA_DVC}"
        remedy = checkout if commit else f"git fetch where others committed it, or ingest {source} again"
        raise LanduseError(f"{title(version)} was trained on data {expected}, {DATA_DVC} says {current}: {remedy}")
    held_out = held_out_images(splits)
    try:
        digests = [sha256_of(DATA / path) for path in held_out["path"]]
    except OSError as error:
        raise LanduseError(
            f"{error.filename}, an image of {title(version)}, cannot be read: dvc pull {DATA_DVC}"
        ) from None
    edited = held_out["path"][held_out["sha256"].notna() & (held_out["sha256"] != digests)]
    if len(edited):
        raise LanduseError(
            f"{DATA / edited.iloc[0]} was edited since {title(version)} was trained: dvc checkout --force data"
        )
    return held_out[["path", "label", "group", PHASH, PHASH_TURNED]].assign(sha256=digests).reset_index(drop=True)


def has_held_out_images(version: ModelVersion) -> bool:
    """Return whether data/ holds the held-out images of a version, unchanged."""
    try:
        verified_held_out(version, read_splits(version))
    except LanduseError:
        return False
    return True


def seen_in_training(held_out: pd.DataFrame, splits: pd.DataFrame) -> NDArray[np.bool_]:
    """Mask of held-out images [images] that another version, with these splits, saw in training or early stopping.

    Its own held-out images do not count as seen; these are validation images if it has no test subset. Images are
    matched by content, also rotated, mirrored or re-encoded, or by path if the run of that version recorded no content.
    """
    used = splits.drop(held_out_images(splits).index)
    same_content = held_out["sha256"].isin(used["sha256"].dropna())
    same_path = held_out["path"].isin(used["path"][used["sha256"].isna()])
    return (same_content | same_path).to_numpy() | are_near_duplicates(held_out, used[PHASH].dropna())


def are_near_duplicates(held_out: pd.DataFrame, hashes: pd.Series) -> NDArray[np.bool_]:
    """Mask of images [images] with one of their eight views within a few bits of one of the hashes.

    Images without a hash never match.
    """
    near, hashed, bits = np.zeros(len(held_out), bool), held_out[PHASH].notna().to_numpy(), parse_hashes(hashes)
    near[hashed] = [
        within_distance(bits, views[None], REENCODING_BITS).any() for views in view_hashes(held_out[hashed])
    ]
    return near


def near_duplicates_of(held_out: pd.DataFrame, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of unseen held-out images [images] that are in one group of near-duplicates with a seen one."""
    return held_out["group"].isin(held_out["group"][seen]).to_numpy() & ~seen


def score_images(classifier: Classifier, table: pd.DataFrame) -> ScoredImages:
    """Predict the images of a table. Raises LanduseError if a probability is not finite."""
    actual = np.array([classifier.labels.index(label) for label in table["label"]])
    probabilities = np.stack(list(classifier.probabilities_of(DATA / path for path in table["path"])))
    if not np.isfinite(probabilities).all():
        raise LanduseError("the model answers with values that are no numbers: train another")
    return ScoredImages(table, classifier.labels, actual, probabilities, classifier.unsure_below)


def score_version(version: ModelVersion, folder: Path) -> tuple[Classifier, ScoredImages]:
    """Fetch a version's files into the folder, and score it on its own held-out images.

    Raises LanduseError if its files are damaged, or data/ is another data set.
    """
    classifier = registry.fetch_model(version, folder)
    table = verified_held_out(version, read_splits(version))
    unknown = sorted({*table["label"]} - {*classifier.labels})
    if unknown:
        raise LanduseError(f"{title(version)} is damaged: it does not know the class {unknown[0]} it was trained on")
    return classifier, score_images(classifier, table)


def compare_on_unseen(version: ModelVersion, scored: ScoredImages, folder: Path) -> PairedComparison:
    """Score another version on those of the scored images that it has not seen in its training.

    Raises LanduseError if there is no such image, or the other version cannot be loaded or has other classes.
    """
    classifier = registry.fetch_model(version, folder)
    odd = sorted({*classifier.labels} ^ {*scored.labels})
    if odd:
        raise LanduseError(
            f"{title(version)} knows other classes, only one of the two knows {', '.join(odd)}: "
            "models of other classes need a register.model of their own"
        )
    seen = seen_in_training(scored.table, read_splits(version))
    near_duplicates = near_duplicates_of(scored.table, seen)
    unseen = ~(seen | near_duplicates)
    if not unseen.any():
        count = f"every one of the {len(unseen)} held-out images"
        duplicates = " or its near-duplicate" if near_duplicates.any() else ""
        raise LanduseError(f"{title(version)} was trained on {count}{duplicates}")
    opponent = score_images(classifier, scored.table[unseen])
    return PairedComparison(scored.select(unseen), opponent, int(seen.sum()), int(near_duplicates.sum()))
