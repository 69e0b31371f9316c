"""Compare two frozen backbones, MobileNet V1 and V2 with the given weights, at several depths.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=v2.weights.h5 LANDUSE_V1_WEIGHTS=v1.weights.h5 \\
    python benchmarks/frozen_depth.py

At each cut, a block's input or the end of the backbone (`head`), the activations are averaged over the image and
classified by logistic regression on standardized channels. Its regularization is chosen by cross-validation within the
training images. Single images are split, so near-duplicates may straddle training and held-out images. The cuts differ
in width as well as in depth: the last column shows what is left of each with only as many principal components, of the
training images, as the narrowest cut has channels. Takes four minutes on two cores.
"""

import os
from io import BytesIO
from pathlib import PurePosixPath
from time import perf_counter
from zipfile import ZipFile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the fits are small: two threads take ten times as long

import keras
import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from landuse.ml.images import parallel_map, read_image
from landuse.ml.network import HEAD, block_input, build_backbone, scaled_input
from landuse.params import ExtractParams

CUTS = {  # V1 has 13 blocks, V2 has 16
    "mobilenet": ("block_7", "block_9", "block_11", "block_12", "block_13", HEAD),
    "mobilenet_v2": ("block_11", "block_13", "block_14", "block_15", "block_16", HEAD),
}
WEIGHTS = {"mobilenet": "LANDUSE_V1_WEIGHTS", "mobilenet_v2": "LANDUSE_WEIGHTS"}
SIZE, BATCH = 224, 32
SEEDS, HELD_OUT = range(1, 6), 0.3
STRENGTHS, FOLDS = (0.01, 0.1, 1.0, 10.0), 3  # C of scikit-learn: the inverse of the regularization

Features = dict[str, NDArray[np.float32]]  # by cut: pooled activations [images, channels]


def read_archive(path: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Read the images `<class>/<image>` of a zip archive: pixels [n, SIZE, SIZE, 3] and the classes' names."""
    with ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".tif", ".png")))
        contents = (BytesIO(archive.read(name)) for name in names)
        pixels = np.stack(list(parallel_map(lambda content: read_image(content, SIZE), contents)))
    return pixels, [PurePosixPath(name).parent.name for name in names]


def pooled_prefixes(backbone: keras.Model, cuts: tuple[str, ...]) -> keras.Model:
    """Build all frozen prefixes as one network: uint8 RGB [n, SIZE, SIZE, 3] → activations [n, channels] per cut."""
    pixels, scaled = scaled_input(backbone)
    ends = [backbone.output if cut == HEAD else block_input(backbone, cut) for cut in cuts]
    pooled = [keras.layers.GlobalAveragePooling2D()(end) for end in ends]
    return keras.Model(pixels, keras.Model(backbone.input, pooled)(scaled))


def extract(name: str, pixels: NDArray[np.uint8]) -> Features:
    """Compute the features of all images at all cuts of a backbone, in one pass."""
    weights = os.path.abspath(os.environ[WEIGHTS[name]])
    backbone = build_backbone(ExtractParams(backbone=name, alpha=1.0, image_size=SIZE, weights=weights, views=1))
    features = pooled_prefixes(backbone, CUTS[name]).predict(pixels, batch_size=BATCH, verbose=0)
    return dict(zip(CUTS[name], features, strict=True))


def score(features: NDArray[np.float32], labels: list[str], seed: int, components: int | None) -> float:
    """Fit a linear classifier on a stratified split, on that many components or all; returns held-out accuracy in %."""
    train, test, train_labels, test_labels = train_test_split(
        features, labels, test_size=HELD_OUT, stratify=labels, random_state=seed
    )
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, cv=FOLDS)
    reduction = [PCA(components, svd_solver="full")] if components else []
    classifier = make_pipeline(StandardScaler(), *reduction, search).fit(train, train_labels)
    return 100 * classifier.score(test, test_labels)


def spread(features: NDArray[np.float32], labels: list[str], components: int | None = None) -> str:
    """Format mean and standard deviation of the accuracy over all seeds."""
    accuracies = [score(features, labels, seed, components) for seed in SEEDS]
    return f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"


def main() -> None:
    """Extract the features of both backbones, and print settings and table."""
    start = perf_counter()
    pixels, labels = read_archive(os.environ["LANDUSE_SOURCE"])
    features = {name: extract(name, pixels) for name in CUTS}
    narrowest = min(array.shape[1] for cuts in features.values() for array in cuts.values())
    print(f"{len(pixels)} images, {SIZE} pixels, {100 * HELD_OUT:.0f} % held out, {len(SEEDS)} splits")
    print(f"C chosen among {STRENGTHS} in {FOLDS} folds, scikit-learn {sklearn.__version__}")
    print(f"| backbone | cut | channels | accuracy, % | of {narrowest} components, % |")
    print("|---|---|---|---|---|")
    for name, cuts in features.items():
        for cut, array in cuts.items():
            cells = (name, cut, str(array.shape[1]), spread(array, labels), spread(array, labels, narrowest))
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"{perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
