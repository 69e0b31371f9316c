"""Tests of the export: plain files that work without this project."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from landuse.core.errors import LanduseError
from landuse.core.paths import DATA, MODEL
from landuse.export import EXAMPLE, export
from landuse.ml.classifier import Classifier

MODELS = {"model.tflite", "model.int8.tflite", "model.keras"}
FILES = MODELS | {"model.json", "examples.parquet", "labels.txt", "example.py"}


@pytest.mark.parametrize("model", ["models:/served@champion", "artifacts/model"])
def test_the_new_folder_has_all_files_of_the_model(served: Path, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "deep" / "exported"
    sentence = export(folder, model)
    assert {path.name for path in folder.iterdir()} == FILES
    for name in FILES - {"labels.txt", "example.py"}:
        assert (folder / name).read_bytes() == (MODEL / name).read_bytes()
    classifier = Classifier(folder)
    assert (folder / "labels.txt").read_text().splitlines() == classifier.labels
    validation = classifier.card["validation"]
    float32, int8 = (f"{validation[name]:.1%}" for name in ("accuracy", "int8_accuracy"))
    assert f"float32 gets {float32} of 9 validation images right, int8 {int8}" in sentence


def test_the_example_predicts_like_the_classifier_without_this_project(served: Path, tmp_path: Path) -> None:
    export(tmp_path / "exported", "artifacts/model")
    images = [served / DATA / label / "02.png" for label in ("water", "forest")]
    block = "import sys; sys.modules['landuse'] = None; sys.argv[0] = 'example.py'; import runpy; "
    block += "runpy.run_path('exported/example.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", block, *images], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = [(path, Classifier(MODEL).predict(path)) for path in images]
    assert done.stdout.splitlines() == [
        f"{path} {prediction.label} {prediction.confidence:.4f}{' unsure' if prediction.unsure else ''}"
        for path, prediction in expected
    ]


def test_the_example_is_short() -> None:
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(code) <= 26


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: (path / "mine").mkdir(parents=True)])
def test_existing_files_are_not_overwritten(served: Path, tmp_path: Path, make) -> None:
    make(folder := tmp_path / "taken")
    with pytest.raises(LanduseError, match="taken is there and not empty: name a new folder"):
        export(folder, "artifacts/model")


def test_a_folder_that_cannot_be_written_is_refused(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LanduseError, match="file/new cannot be written: Not a directory"):
        export(tmp_path / "file" / "new", "artifacts/model")


@pytest.mark.parametrize("exists", [True, False])
def test_a_full_disk_leaves_no_partial_export(served: Path, tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "new"
    if exists:
        folder.mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    script = f"{limit}; from landuse.export import export; export(Path('{folder}'), 'artifacts/model')"
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; {script}"],
        capture_output=True,
        text=True,
        env=tiny.WITHOUT_BYTECODE,
    )
    assert f"{folder} cannot be written: [Errno 27] File too large; fix that" in done.stderr
    assert folder.exists() == exists and not list(folder.glob("*"))


def test_a_model_without_int8_scores_is_refused(trained_copy: Path, tmp_path: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text())
    del card["validation"]
    (MODEL / "model.json").write_text(json.dumps(card))
    with pytest.raises(LanduseError, match="artifacts/model has no validation in its model.json"):
        export(tmp_path / "new", "artifacts/model")
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_filled(served: Path, tmp_path: Path) -> None:
    export(tmp_path, "artifacts/model")
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_missing_model_leaves_no_folder(served: Path, tmp_path: Path) -> None:
    with pytest.raises(LanduseError, match="no version of served is nobody"):
        export(tmp_path / "new", "models:/served@nobody")
    assert not (tmp_path / "new").exists()
