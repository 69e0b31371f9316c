"""A model as plain files, that work where this project is not."""

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
def test_the_files_of_a_model_are_all_in_the_new_folder(served: Path, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "deep" / "exported"
    said = export(folder, model)
    assert {path.name for path in folder.iterdir()} == FILES
    for name in FILES - {"labels.txt", "example.py"}:
        assert (folder / name).read_bytes() == (MODEL / name).read_bytes()
    classifier = Classifier(folder)
    assert (folder / "labels.txt").read_text().splitlines() == classifier.labels
    found = classifier.card["validation"]
    assert (
        f"float32 gets {found['accuracy']:.1%} of 9 validation images right, int8 {found['int8_accuracy']:.1%}" in said
    )


def test_the_example_answers_as_the_classifier_does_without_this_project(served: Path, tmp_path: Path) -> None:
    export(tmp_path / "exported", "artifacts/model")
    images = [served / DATA / label / "02.png" for label in ("water", "forest")]
    block = "import sys; sys.modules['landuse'] = None; sys.argv[0] = 'example.py'; import runpy; "
    block += "runpy.run_path('exported/example.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", block, *images], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = [(path, Classifier(MODEL).predict(path)) for path in images]
    assert done.stdout.splitlines() == [
        f"{path} {said.label} {said.confidence:.4f}{' unsure' if said.unsure else ''}" for path, said in expected
    ]


def test_the_example_is_short() -> None:
    code = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(code) <= 26


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: (path / "mine").mkdir(parents=True)])
def test_what_is_there_is_not_overwritten(served: Path, tmp_path: Path, make) -> None:
    make(folder := tmp_path / "taken")
    with pytest.raises(LanduseError, match="taken is there and not empty: name a new folder"):
        export(folder, "artifacts/model")


def test_a_folder_that_cannot_be_written_is_named(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LanduseError, match="file/new cannot be written: Not a directory"):
        export(tmp_path / "file" / "new", "artifacts/model")


@pytest.mark.parametrize("was_there", [True, False])
def test_where_the_disk_is_full_nothing_is_left_of_the_folder(served: Path, tmp_path: Path, was_there: bool) -> None:
    folder = tmp_path / "new"
    if was_there:
        folder.mkdir()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    script = f"{limit}; from landuse.export import export; export(Path('{folder}'), 'artifacts/model')"
    done = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; {script}"],
        capture_output=True,
        text=True,
        env=tiny.WITHOUT_BYTECODE,
    )
    assert f"{folder} cannot be written: [Errno 27] File too large; mend that" in done.stderr
    assert folder.exists() == was_there and not list(folder.glob("*"))


def test_a_model_of_before_int8_was_scored_is_refused(trained_copy: Path, tmp_path: Path) -> None:
    card = json.loads((MODEL / "model.json").read_text())
    del card["validation"]
    (MODEL / "model.json").write_text(json.dumps(card))
    with pytest.raises(LanduseError, match="artifacts/model has no validation in its model.json"):
        export(tmp_path / "new", "artifacts/model")
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_filled(served: Path, tmp_path: Path) -> None:
    export(tmp_path, "artifacts/model")
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_model_that_there_is_not_leaves_no_folder(served: Path, tmp_path: Path) -> None:
    with pytest.raises(LanduseError, match="no version of served is nobody"):
        export(tmp_path / "new", "models:/served@nobody")
    assert not (tmp_path / "new").exists()
