"""Init: params.yaml fits one's own images, says why, and is never overwritten by accident."""

import shutil
import zipfile
from pathlib import Path

import pytest
import tiny
import yaml
from PIL import Image

from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import PARAMS
from landuse.init import init
from landuse.init.choices import choose
from landuse.init.survey import Survey, survey
from landuse.params import load_params


@pytest.fixture
def fresh(project: Path) -> Path:
    """A project as it comes, with its presets and the sample's params."""
    shutil.copytree(tiny.ROOT / "presets", "presets")
    shutil.copy("presets/sample.yaml", PARAMS)
    return project


def make_images(folder: Path, images: int = 10, side: int = 64) -> Path:
    """Make a folder of three classes, of which water has half as many images."""
    for label in tiny.LABELS:
        (folder / label).mkdir(parents=True)
        for number in range(images // 2 if label == "water" else images):
            tiny.scene(label, number).resize((side, side)).save(folder / label / f"{number}.png")
    return folder


def test_the_params_fit_the_images_and_every_choice_has_a_reason(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "Forest types")
    table = init(str(folder), None, "imagenet", force=False)
    params = load_params()
    assert params.data.source == str(folder) and params.register.model == "forest-types"
    assert params.validate.classes == ("field", "forest", "water") and params.validate.modes == ("RGB",)
    assert (params.validate.images_per_class, params.validate.size, params.validate.smallest) == (4, 64, 51)
    assert params.validate.imbalance == 2.5 and params.extract.image_size == 96
    assert params.promote.min_images == 4 and params.promote.families == ()
    assert "validate.images_per_class" in table and "four fifths of water, 5" in table
    assert "next: make run" in table.splitlines()[-1]


def test_the_comments_and_everything_else_of_the_preset_stay(fresh: Path, tmp_path: Path) -> None:
    init(str(make_images(tmp_path / "images")), "mine", "imagenet", force=False)
    template, text = Path("presets/ucmerced.yaml").read_text("utf-8"), PARAMS.read_text("utf-8")
    assert text.count("#") == template.count("#") and text.startswith("# Images of images, ")
    before, after = yaml.safe_load(template), yaml.safe_load(text)
    assert before["train"] == after["train"] and before["tune"] == after["tune"] and before["serve"] == after["serve"]


def test_an_archive_gives_the_same_params_as_its_folder(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert survey(tmp_path / "images.zip") == survey(folder)


def test_edited_params_are_replaced_by_force_only(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    init(str(folder), None, "imagenet", force=False)
    before = PARAMS.read_bytes()
    with pytest.raises(
        LanduseError, match=r"params.yaml is not the one that came with the project: commit it, then --force"
    ):
        init(str(folder), "other", "imagenet", force=False)
    assert PARAMS.read_bytes() == before
    Path("artifacts").mkdir()
    Path("artifacts/run.json").write_text("{}")
    with pytest.raises(LanduseError, match="and there are runs of it"):
        init(str(folder), "other", "imagenet", force=False)
    init(str(folder), "other", "imagenet", force=True)
    assert load_params().register.model == "other"


def test_weights_that_do_not_exist_are_refused_before_anything_is_read(fresh: Path) -> None:
    with pytest.raises(
        LanduseError, match="--weights mine.h5: weights/mine.h5 does not exist; name a file in weights/"
    ):
        init("nowhere", None, "mine.h5", force=False)


def no_images(folder: Path) -> None:
    folder.mkdir()
    (folder / "readme.txt").write_text("none")


def without_classes(folder: Path) -> None:
    make_images(folder)
    tiny.scene("field", 0).save(folder / "alone.png")


def one_class(folder: Path) -> None:
    make_images(folder)
    for label in ("field", "water"):
        shutil.rmtree(folder / label)


def split_folders(folder: Path) -> None:
    for part in ("train", "test"):
        make_images(folder / part)
        for path in (folder / part).rglob("*.png"):
            path.rename(folder / part / f"{path.parent.name}-{path.name}")


def nearly_the_same(folder: Path) -> None:
    make_images(folder)
    shutil.copytree(folder / "water", folder / "Water")


def single_image(folder: Path) -> None:
    make_images(folder)
    (folder / "rare").mkdir()
    tiny.scene("field", 0).save(folder / "rare" / "1.png")


def damaged(folder: Path) -> None:
    make_images(folder)
    (folder / "water" / "0.png").write_bytes(b"no image")


def unreadable(folder: Path) -> None:
    make_images(folder)
    (folder / "water").rename(folder / "elsewhere")
    (folder / "water").symlink_to(folder / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_images, "holds no images in folders of classes: arrange them as <class>/<image>"),
        (without_classes, "image 'alone.png' lies in no class folder; use <class>/<image>"),
        (one_class, "holds one class only, forest: a classifier needs two or more"),
        (split_folders, "test, train look like parts of a split rather than classes; name one folder of class folders"),
        (nearly_the_same, "the classes Water and water differ in capital letters only: rename one"),
        (single_image, r"rare \(1\): a class needs 5 images or more; add some, or leave it out"),
        (damaged, "water/0.png is no image that can be read: .*; remove or replace it"),
        (unreadable, "is a link to a folder; put the folder there itself"),
    ],
)
def test_images_that_cannot_be_learned_from_are_refused_with_what_was_found(
    fresh: Path, tmp_path: Path, spoil, message: str
) -> None:
    spoil(tmp_path / "images")
    before = PARAMS.read_bytes()
    with pytest.raises(Refused, match=message) as caught:
        init(str(tmp_path / "images"), None, "imagenet", force=False)
    assert "\n" not in str(caught.value) and PARAMS.read_bytes() == before


def test_a_source_that_does_not_exist_is_named(fresh: Path) -> None:
    with pytest.raises(Refused, match="no/such/folder: there is no such file or folder"):
        init("no/such/folder", None, "imagenet", force=False)


def test_odd_sizes_and_modes_are_taken_as_they_are(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", side=300)
    Image.new("L", (200, 220)).save(folder / "field" / "grey.png")
    init(str(folder), None, "imagenet", force=False)
    params = load_params()
    assert params.validate.modes == ("L", "RGB") and params.validate.size == 300 and params.validate.smallest == 160
    assert params.extract.image_size == 224


@pytest.mark.parametrize("images", [5, 20, 100, 10_000])
def test_the_gate_is_wider_where_there_are_fewer_held_out_images(images: int) -> None:
    found = Survey()
    for label in "ab":
        found.classes[label] = images
    found.sizes[(256, 256)] = found.modes["RGB"] = 2 * images
    values = {choice.key: choice.value for choice in choose(found, "x", "x", "none") if choice.section == "promote"}
    expected = {5: (0.45, 0.85), 20: (0.23, 0.45), 100: (0.1, 0.2), 10_000: (0.01, 0.05)}[images]
    assert (values["margin"], values["max_class_fall"]) == pytest.approx(expected, abs=0.02)
    assert 0 < values["min_images"] <= 0.4 * images
