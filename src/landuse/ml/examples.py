"""Training images shipped with the model, so that the server can show the ones most similar to an input."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from landuse.core.errors import LanduseError, one_line
from landuse.core.paths import DATA
from landuse.ml.images import parallel_map, thumbnail

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES_FILE = "examples.parquet"
PER_CLASS = 25
SIDE = 64  # pixels of a thumbnail's longer side


class Example(NamedTuple):
    """A training image similar to an input. `similarity` is the cosine of the two embeddings, at most 1."""

    path: str
    label: str
    similarity: float
    thumbnail: bytes


def select_examples(splits: "pd.DataFrame") -> NDArray[np.intp]:
    """Select up to 25 training images per class at random with a fixed seed. Returns sorted row numbers."""
    images = splits.reset_index(drop=True).query("subset == 'train'")
    sampled = images.sample(frac=1, random_state=1).groupby("label").head(PER_CLASS)
    return np.sort(sampled.index.to_numpy())


def write_examples(folder: Path, images: "pd.DataFrame", embeddings: NDArray[np.float32]) -> None:
    """Write `examples.parquet`: one row per image with path, label, float16 embedding and JPEG thumbnail."""
    columns = {
        "path": pa.array(images["path"]),
        "label": pa.array(images["label"]),
        "embedding": pa.FixedSizeListArray.from_arrays(embeddings.astype(np.float16).ravel(), embeddings.shape[1]),
        "thumbnail": pa.array(parallel_map(lambda path: thumbnail(DATA / path, SIDE), images["path"]), pa.binary()),
    }
    parquet.write_table(pa.table(columns), folder / EXAMPLES_FILE)


class Examples:
    """The examples in a model folder. Raises LanduseError if the file is damaged."""

    def __init__(self, folder: Path) -> None:
        try:
            table = parquet.read_table(folder / EXAMPLES_FILE)
            self.rows: list[dict[str, Any]] = table.select(["path", "label", "thumbnail"]).to_pylist()
            flat = table["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
            vectors = flat.reshape(len(self.rows), -1)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = one_line(error, 160)
            raise LanduseError(f"{EXAMPLES_FILE} is damaged: {reason}; train and register it anew") from None
        self.unit_vectors: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def nearest(self, embedding: NDArray[np.float32], count: int) -> list[Example]:
        """Return the `count` examples most similar to an embedding [channels], most similar first."""
        # Not a matrix product: BLAS threads keep spinning for 20 ms and would delay the next images.
        similarities = np.einsum("ij,j->i", self.unit_vectors, embedding / np.linalg.norm(embedding))
        best = np.argsort(-similarities)[:count]
        return [Example(similarity=float(similarities[index]), **self.rows[index]) for index in best]
