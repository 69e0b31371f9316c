"""The embedded sample: the same bytes everywhere, with the intended imperfections and no others."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landuse.core.errors import LanduseError
from landuse.ml.images import decode
from landuse.params import load_params
from landuse.sample import (
    CLASSES,
    COPY,
    FINGERPRINT,
    IMAGES_PER_CLASS,
    ODD_NAME,
    ODD_SIZE,
    ORIGINAL,
    draw,
    draw_sample,
    is_drawn,
)

PRESET = load_params(Path(__file__).parents[1] / "presets/sample.yaml")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return all files of a newly drawn sample, sorted."""
    folder = tmp_path_factory.mktemp("sample") / "drawn"
    draw_sample(folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def greys(files: list[Path]) -> dict[str, Image.Image]:
    """Return the images in greyscale, by name."""
    return {path.stem: decode(path).convert("L") for path in files}


def perceptual_hashes(greys: dict[str, Image.Image]) -> np.ndarray:
    """Compute for 8 × 8 cells whether each is darker than its right neighbour, [images, 64]."""
    cells = [np.asarray(grey.resize((9, 8), Image.Resampling.BILINEAR)) for grey in greys.values()]
    return np.stack([(cell[:, 1:] > cell[:, :-1]).ravel() for cell in cells])


def test_the_fingerprint_matches_the_drawn_files(files: list[Path]) -> None:
    digest = sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    drawn = digest.hexdigest()
    assert drawn == FINGERPRINT, f"the drawing changed: set FINGERPRINT in landuse/sample/__init__.py to {drawn}"


def test_it_has_the_classes_of_its_preset_with_equally_many_images(files: list[Path]) -> None:
    expected = [f"{label}/{label}{number:02d}.png" for label in CLASSES for number in range(IMAGES_PER_CLASS)]
    assert ["/".join(path.parts[-2:]) for path in files] == expected
    assert PRESET.validate.classes == CLASSES


def test_one_image_has_another_size_and_all_are_rgb(files: list[Path]) -> None:
    sizes = {path.stem: (image.mode, image.size) for path in files if (image := decode(path))}
    usual = ("RGB", (PRESET.validate.size, PRESET.validate.size))
    assert {name: size for name, size in sizes.items() if size != usual} == {ODD_NAME: ("RGB", (ODD_SIZE, ODD_SIZE))}


def test_the_files_contain_the_pixels_that_were_drawn(files: list[Path]) -> None:
    for path in files[::40]:
        with Image.open(path) as image:
            image.verify()
        assert decode(path).tobytes() == draw(path.parent.name, 0).tobytes()


def test_every_file_is_marked_as_drawn_and_a_resaved_image_is_not(files: list[Path], tmp_path: Path) -> None:
    decode(files[0]).save(tmp_path / files[0].name)
    assert all(map(is_drawn, files)) and not is_drawn(tmp_path / files[0].name)


def test_no_image_looks_blank(greys: dict[str, Image.Image]) -> None:
    limits = PRESET.validate
    for name, grey in greys.items():
        levels = np.asarray(grey)
        assert limits.brightness[0] < levels.mean() < limits.brightness[1], name
        assert levels.std() > limits.contrast, name


def test_only_the_one_duplicate_looks_alike(files: list[Path], greys: dict[str, Image.Image]) -> None:
    hashes, names = perceptual_hashes(greys), list(greys)
    differing = (hashes[:, None] != hashes[None]).sum(axis=-1)
    alike = np.argwhere(np.triu(differing <= PRESET.split.hash_distance, k=1))
    assert [(names[one], names[other]) for one, other in alike] == [(ORIGINAL, COPY)]
    contents = {path.stem: path.read_bytes() for path in files}
    assert contents[ORIGINAL] == contents[COPY]


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(LanduseError, match="not an empty folder"):
        draw_sample(tmp_path)
    with pytest.raises(LanduseError, match="not an empty folder"):
        draw_sample(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
