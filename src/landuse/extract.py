"""Extract: what the frozen part of the network sees in every image and view, computed once, blind to labels."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from landuse import model
from landuse.classifier import LiteModel
from landuse.dataset import map_ahead, read_image, view
from landuse.features import ACTIVATIONS, BACKBONE, EMBEDDINGS, FACTS, RowFile
from landuse.files import made
from landuse.params import ExtractParams
from landuse.paths import DATA, FEATURES, MANIFEST
from landuse.progress import track

Look = tuple[NDArray, NDArray]


def extract(params: ExtractParams, unfreeze_from: str) -> None:
    """Write `artifacts/features/`: embeddings, activations and the backbone they come from.

    Raises LanduseError where the weights cannot be had or an image cannot be decoded.
    """
    paths = [DATA / path for path in pd.read_parquet(made(MANIFEST), columns=["path"])["path"]]
    backbone = model.build_backbone(params)
    FEATURES.mkdir(parents=True, exist_ok=True)
    backbone.save_weights(BACKBONE)
    facts = {"params": asdict(params), "cut": unfreeze_from, "weights_sha256": model.weights_digest(backbone)}
    FACTS.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    looks = map_ahead(observer(backbone, params, unfreeze_from), paths)
    write_looks(track(looks, len(paths), "extract"), len(paths))


def observer(backbone: keras.Model, params: ExtractParams, unfreeze_from: str) -> Callable[[Path], Look]:
    """A function from an image file to its embedding [channels] and its activations [views, …].

    Pooled activations are kept as float32; maps, which are 49 times larger and more, as float16.
    """
    cut, views = (model.HEAD, 1) if unfreeze_from == model.ALL else (unfreeze_from, params.views)
    before = LiteModel(model.to_litert(model.prefix(backbone, cut)))
    after = None if cut == model.HEAD else LiteModel(model.to_litert(model.pooled_suffix(backbone, cut)))

    def look(path: Path) -> Look:
        pixels = read_image(path, params.image_size)
        seen = np.stack([before(np.ascontiguousarray(view(pixels, number))) for number in range(views)])
        return (seen[0], seen) if after is None else (after(seen[0]), seen.astype(np.float16))

    return look


def write_looks(looks: Iterable[Look], rows: int) -> None:
    """Stream the rows of both arrays to disk."""
    with RowFile(EMBEDDINGS, rows) as embeddings, RowFile(ACTIVATIONS, rows) as activations:
        for embedding, activation in looks:
            embeddings.append(embedding)
            activations.append(activation)
