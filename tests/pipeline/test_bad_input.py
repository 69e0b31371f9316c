"""Invalid input is refused with one line that names it and the remedy; nothing is lost."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace, write_weights

from landuse import sample


def encoded_scene(label: str, number: int) -> bytes:
    buffer = BytesIO()
    sample.draw(label, number).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path: Path, images: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in images.items():
            file.writestr(name, content)
    return path


def no_images() -> dict[str, bytes]:
    return {}


def one_class() -> dict[str, bytes]:
    return {f"beach/{number}.png": encoded_scene("beach", number) for number in range(20)}


def broken_image() -> dict[str, bytes]:
    images = {f"{label}/{number}.png": encoded_scene(label, number) for label in sample.CLASSES for number in range(2)}
    return images | {"beach/broken.png": images["beach/0.png"][:500]}


def state(work: Workspace) -> tuple[bytes, list[str]]:
    """Return what a refusal must not change: the version of the data, and its files."""
    files = sorted(str(path) for path in (work.folder / "data").rglob("*"))
    return (work.folder / "data.dvc").read_bytes(), files


@pytest.mark.parametrize(
    ("images", "message"),
    [(no_images, "image"), (one_class, "courts"), (broken_image, "beach/broken.png")],
    ids=["an empty archive", "only one class", "an undecodable image"],
)
def test_unusable_data_is_refused_by_name(work: Workspace, images: Any, message: str) -> None:
    source = archive(work.folder.parent / "bad.zip", images())
    before = state(work)
    work.change(lambda params: params["data"].update(source=str(source)))
    error = work.refused("landuse", "ingest")
    assert "bad.zip" in error and message in error
    assert state(work) == before
    assert work.ok("dvc", "status", "data.dvc").strip() == "Data and pipelines are up to date."


def test_a_class_too_small_for_the_split_is_named_with_the_keys_to_change(work: Workspace) -> None:
    work.change(lambda params: params["split"].update(validation=0.001))
    message = work.refused("landuse", "split")
    assert "class " in message and "split.validation" in message and "params.yaml" in message


def test_an_image_damaged_after_validation_is_named(work: Workspace) -> None:
    path = work.folder / "data" / "beach" / "beach07.png"
    path.write_bytes(path.read_bytes()[:500])
    message = work.refused("landuse", "extract", LANDUSE_FROM_SCRATCH="1")
    assert "data/beach/beach07.png was changed since artifacts/manifest.parquet was made" in message


def test_a_missing_weights_file_is_named_with_its_key(work: Workspace) -> None:
    work.change(lambda params: params["extract"].update(weights="lost.h5"))
    message = work.refused("landuse", "extract")
    assert "extract.weights = lost.h5" in message and "weights/lost.h5 does not exist" in message
    repro = work.run("dvc", "repro")
    assert repro.returncode == 255 and "weights/lost.h5" in repro.stderr and "Traceback" not in repro.stderr
    work.ok("git", "checkout", "params.yaml")
    work.ok("dvc", "checkout")
    assert work.stale() == {}


def test_weights_of_a_different_width_are_named_with_both_keys(work: Workspace, tmp_path: Path) -> None:
    write_weights(tmp_path / "wide.weights.h5", alpha=0.5)
    work.change(lambda params: params["extract"].update(weights=str(tmp_path / "wide.weights.h5")))
    message = work.refused("landuse", "extract")
    assert f"extract.weights = {tmp_path}/wide.weights.h5" in message and "extract.alpha = 0.35" in message


def test_a_mistyped_key_stops_the_pipeline_before_anything_is_lost(work: Workspace) -> None:
    path = work.folder / "params.yaml"
    path.write_text(path.read_text().replace("learning_rate:", "learning_rte:"))
    done = work.run("dvc", "repro")
    assert done.returncode == 255 and "did you mean learning_rate?" in done.stderr and "Traceback" not in done.stderr
    work.ok("git", "checkout", "params.yaml")
    work.ok("dvc", "checkout")
    assert work.stale() == {}
