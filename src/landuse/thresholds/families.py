"""Families: classes that the model takes for each other. Chosen on validation images, measured on held-out ones."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse.core.files import read_table
from landuse.core.paths import DATA, MODEL, PREDICTIONS, SPLITS
from landuse.core.progress import track
from landuse.ml.classifier import Classifier
from landuse.ml.images import evenly_spaced
from landuse.ml.metrics import held_out_images

ALIKE = 0.03  # probability that images of two classes give to the other one, on average, from which they are a family
SAME = 0.25  # from which the two may be one class under two names
MOST_IMAGES = 2000  # validation images that are looked at; some seconds


class Family(NamedTuple):
    """Classes taken for each other, how much so, and the accuracy on their held-out images."""

    labels: list[str]
    alike: float
    accuracy: float
    images: int

    def __str__(self) -> str:
        hint = ", perhaps one class under two names" if self.alike >= SAME else ""
        name = "/".join(self.labels)
        return f"{name} {self.alike:.1%}{hint} (of their {self.images} held-out images {self.accuracy:.1%} are right)"


def propose_families(fewest: int) -> tuple[list[Family], str]:
    """Return the families with at least so many held-out images, the most alike first, and where they were chosen."""
    splits = read_table(SPLITS)
    validation = splits[splits["subset"] == "validation"]
    validation = validation[evenly_spaced(len(validation), MOST_IMAGES)]
    classifier = Classifier(MODEL)
    images = [DATA / path for path in validation["path"]]
    probabilities = np.stack(list(track(classifier.probabilities_of(images), len(images), "families")))
    alike = alikeness(validation["label"], probabilities, classifier.labels)
    found = [measure(group, alike) for group in group_alike(alike)]
    families = sorted((each for each in found if each.images >= fewest), key=lambda each: -each.alike)
    same = len(held_out_images(splits)) and held_out_images(splits)["subset"].iloc[0] == "validation"
    return families, f"{len(images)} validation images{', which are the held-out ones, too' if same else ''}"


def alikeness(labels: pd.Series, probabilities: NDArray[np.float32], classes: list[str]) -> pd.DataFrame:
    """Return how alike two classes are to the model [classes, classes]; 0 for a class without images.

    It is the mean of what images of the one give to the other, and the other way round. Calibrated probabilities of
    [images, classes] are how often the model expects to be wrong, so that few images tell more than counts of mistakes.
    """
    table = pd.DataFrame(probabilities.astype(float), columns=classes).groupby(labels.to_numpy()).mean()
    given = table.reindex(index=classes, columns=classes).fillna(0.0)
    return (given + given.T) / 2


def group_alike(alike: pd.DataFrame) -> list[list[str]]:
    """Return groups of two classes or more in which pairs are alike, but not a group of all classes.

    From the most alike pair on, two groups are joined while their pairs across are alike on average (average linkage).
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - alike.to_numpy()
    np.fill_diagonal(distance, 0)
    number = fcluster(linkage(squareform(distance), "average"), 1 - ALIKE, "distance")
    groups = [sorted(alike.index[number == each]) for each in np.unique(number)]
    return [group for group in groups if 1 < len(group) < len(alike)]


def measure(group: list[str], alike: pd.DataFrame) -> Family:
    """Return a family: the mean of its pairs, and the accuracy of the model on its held-out images."""
    pairs = alike.loc[group, group].to_numpy()[np.triu_indices(len(group), 1)]
    rows = read_table(PREDICTIONS, ["path", "actual", "predicted"])
    rows = rows[rows["actual"].isin(group)]
    right = rows["actual"] == rows["predicted"]
    return Family(group, float(pairs.mean()), float(right.mean()), len(rows))
