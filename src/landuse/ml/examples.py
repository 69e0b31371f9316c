"""Training images that travel with the model, so that an answer can show what was learned from and looks alike."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from landuse.core.errors import LanduseError, one_line
from landuse.core.paths import DATA
from landuse.ml.images import map_ahead, thumbnail

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES_FILE = "examples.parquet"
PER_CLASS = 25
SIDE = 64  # pixels of a thumbnail's longer side


class Example(NamedTuple):
    """A training image that is like another one; the similarity is the cosine of both embeddings, at most 1."""

    path: str
    label: str
    similarity: float
    thumbnail: bytes


def choose(splits: "pd.DataFrame") -> NDArray[np.intp]:
    """The numbers of the rows of up to 25 training images of every class, drawn the same way every time."""
    images = splits.reset_index(drop=True).query("subset == 'train'")
    drawn = images.sample(frac=1, random_state=1).groupby("label").head(PER_CLASS)
    return np.sort(drawn.index.to_numpy())


def write_examples(folder: Path, images: "pd.DataFrame", embeddings: NDArray[np.float32]) -> None:
    """Write `examples.parquet`: one row per image with path, label, embedding in float16, and a small JPEG."""
    columns = {
        "path": pa.array(images["path"]),
        "label": pa.array(images["label"]),
        "embedding": pa.FixedSizeListArray.from_arrays(embeddings.astype(np.float16).ravel(), embeddings.shape[1]),
        "thumbnail": pa.array(map_ahead(lambda path: thumbnail(DATA / path, SIDE), images["path"]), pa.binary()),
    }
    parquet.write_table(pa.table(columns), folder / EXAMPLES_FILE)


class Examples:
    """The examples of a model folder. Raises LanduseError where the file is damaged."""

    def __init__(self, folder: Path) -> None:
        try:
            rows = parquet.read_table(folder / EXAMPLES_FILE)
            self.texts = rows.select(["path", "label", "thumbnail"]).to_pylist()
            flat = rows["embedding"].combine_chunks().flatten().to_numpy().astype(np.float32)
            vectors = flat.reshape(len(self.texts), -1)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            reason = one_line(error, 160)
            raise LanduseError(f"{EXAMPLES_FILE} is damaged: {reason}; train and register it anew") from None
        self.units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def nearest(self, embedding: NDArray[np.float32], count: int) -> list[Example]:
        """Those whose embeddings [channels] are most like this one, the likest first."""
        # The threads of a matrix product go on spinning for 20 ms, and the next images wait for them.
        similarities = np.einsum("ij,j->i", self.units, embedding / np.linalg.norm(embedding))
        likest = np.argsort(-similarities)[:count]
        return [Example(similarity=float(similarities[index]), **self.texts[index]) for index in likest]
