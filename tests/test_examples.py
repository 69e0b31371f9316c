"""Training images shipped with the model: the ones most similar to an image are found without data/."""

import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from pyarrow import parquet

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MODEL, SPLITS
from landuse.ml.classifier import INT8_FILE, Classifier, LiteModel
from landuse.ml.examples import EXAMPLES_FILE, PER_CLASS, Examples, select_examples


def test_examples_are_training_images_of_every_class_with_thumbnails(trained: Path) -> None:
    rows = parquet.read_table(MODEL / EXAMPLES_FILE).to_pylist()
    splits = pd.read_csv(SPLITS)
    labels = splits[splits["subset"] == "train"].set_index("path")["label"].to_dict()
    assert {row["path"]: row["label"] for row in rows} == labels and len(rows) == len(labels)
    for row in rows:
        with Image.open(io.BytesIO(row["thumbnail"])) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= 64
        assert len(row["embedding"]) == 1280


def test_an_image_is_most_similar_to_itself_and_then_to_its_own_class(trained: Path) -> None:
    classifier, examples = Classifier(MODEL), Examples(MODEL)
    for label in tiny.LABELS:
        path = next(row["path"] for row in examples.rows if row["label"] == label)
        _, embedding = classifier.predict_with_embedding(DATA / path)
        nearest = examples.nearest(embedding, 3)
        assert nearest[0].path == path and nearest[0].similarity == pytest.approx(1, abs=1e-3)
        assert {example.label for example in nearest} == {label}
        assert [example.similarity for example in nearest] == sorted((x.similarity for x in nearest), reverse=True)


def test_no_class_exceeds_its_share_and_the_selection_is_deterministic() -> None:
    rows = [{"label": label, "subset": "train"} for label in "ab" for _ in range(PER_CLASS + 5)]
    splits = pd.DataFrame([{"label": "c", "subset": "test"}, *rows, {"label": "c", "subset": "train"}])
    selected = select_examples(splits)
    assert np.array_equal(selected, select_examples(splits)) and len(set(selected)) == len(selected)
    assert Counter(splits["label"].iloc[selected]) == {"a": PER_CLASS, "b": PER_CLASS, "c": 1}
    assert set(splits["subset"].iloc[selected]) == {"train"}


def test_embeddings_come_with_predictions_in_float32_and_int8(trained: Path) -> None:
    classifier, path = Classifier(MODEL), DATA / "forest" / "05.png"
    prediction, embedding = classifier.predict_with_embedding(path)
    assert prediction == classifier.predict(path) and embedding.shape == (1280,) and embedding.dtype == np.float32
    classifier.model = LiteModel((MODEL / INT8_FILE).read_bytes())
    _, quantized = classifier.predict_with_embedding(path)
    assert embedding @ quantized / np.linalg.norm(embedding) / np.linalg.norm(quantized) > 0.9


def garble(path: Path) -> None:
    """Overwrite bytes near the start of the first column."""
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 40 + content[100:])


@pytest.mark.parametrize(
    "write", [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"rubbish"), garble]
)
def test_a_damaged_file_of_examples_is_refused_in_one_line(trained_copy: Path, write: Callable[[Path], object]) -> None:
    write(MODEL / EXAMPLES_FILE)
    with pytest.raises(LanduseError, match="examples.parquet is damaged: .*; train and register it anew") as caught:
        Examples(MODEL)
    assert "\n" not in str(caught.value)
