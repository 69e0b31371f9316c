"""The evidence: held-out images of a version, and what a model makes of them."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from landuse import lineage, registry
from landuse.classifier import Classifier
from landuse.errors import LanduseError
from landuse.paths import DATA, DATA_DVC
from landuse.scores import held_out_images

SPLITS_FILE, MANIFEST_FILE = "splits.csv", "validation/manifest.parquet"


@dataclass(frozen=True)
class Evidence:
    """What a model makes of images, row by row.

    `table` has one row per image: path, label, sha256; `actual` [images] are places in `labels`;
    `probabilities` is [images, classes].
    """

    table: pd.DataFrame
    labels: list[str]
    actual: NDArray[np.intp]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.intp]:
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        return self.predicted == self.actual

    def only(self, rows: NDArray[np.bool_]) -> "Evidence":
        """The same of some images."""
        return Evidence(self.table[rows], self.labels, self.actual[rows], self.probabilities[rows])


def splits_of(version: ModelVersion, folder: Path) -> pd.DataFrame:
    """The split that a version was trained with: path, label, group, subset; and sha256 where its run tells.

    Raises LanduseError where its run does not have it any more.
    """
    path = registry.fetch_run_file(version, SPLITS_FILE, folder)
    if path is None:
        raise LanduseError(
            f"{version.name} version {version.version}: its run {version.run_id} has no {SPLITS_FILE}, so nobody knows "
            "which images it never saw; register it again with dvc repro --single-item --force register"
        )
    splits, manifest = pd.read_csv(path), registry.fetch_run_file(version, MANIFEST_FILE, folder)
    if manifest is None:
        return splits.assign(sha256=None)
    return splits.merge(pd.read_parquet(manifest, columns=["path", "sha256"]), on="path", how="left")


def held_out_here(version: ModelVersion, splits: pd.DataFrame) -> pd.DataFrame:
    """The held-out images of a version in data/: one row each with path, label, sha256 of the file as it is now.

    Raises LanduseError where data/ is not the data set of the version.
    """
    wanted, here = version.tags.get("data.md5"), lineage.data_record()["md5"]
    title = f"{version.name} version {version.version}"
    if wanted != here:
        commit = version.tags.get("git.commit", "none")[:12]
        raise LanduseError(
            f"{title} was trained on data {wanted}, {DATA_DVC} says {here}: "
            f"git checkout {commit} {DATA_DVC} && dvc checkout {DATA_DVC}"
        )
    held_out = held_out_images(splits)
    try:
        found = [sha256((DATA / path).read_bytes()).hexdigest() for path in held_out["path"]]
    except OSError as error:
        raise LanduseError(f"{error.filename}, which {title} is judged on, cannot be read: dvc checkout data") from None
    strange = held_out["sha256"].notna() & (held_out["sha256"] != found)
    if strange.any():
        raise LanduseError(
            f"{DATA / held_out['path'][strange].iloc[0]} is not the image that {title} is judged on, it was edited: "
            "dvc checkout --force data"
        )
    return held_out[["path", "label"]].assign(sha256=found).reset_index(drop=True)


def unseen(held_out: pd.DataFrame, splits: pd.DataFrame) -> NDArray[np.bool_]:
    """Which held-out images [images] another version had no part of in its training: neither to learn nor to stop.

    The same image is known by its content where the other version's run tells that, and by its path otherwise.
    """
    known = splits.drop(held_out_images(splits).index)
    seen = held_out["sha256"].isin(known["sha256"].dropna())
    return ~(seen | held_out["path"].isin(known["path"][known["sha256"].isna()])).to_numpy()


def gather(classifier: Classifier, table: pd.DataFrame) -> Evidence:
    """Let a classifier look at the images of a table."""
    actual = np.array([classifier.labels.index(label) for label in table["label"]])
    images = [DATA / path for path in table["path"]]
    return Evidence(table, classifier.labels, actual, np.stack(list(classifier.probabilities_of(images))))
