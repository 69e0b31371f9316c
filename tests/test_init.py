"""Init: params.yaml fits one's own images, says why, and is never overwritten by accident."""

import os
import shutil
import zipfile
from pathlib import Path
from time import process_time
from unicodedata import normalize
from unittest.mock import ANY

import h5py
import pytest
import tiny
import yaml
from PIL import Image, TiffImagePlugin, TiffTags
from typer.testing import CliRunner

from landuse.cli import app
from landuse.core.errors import LanduseError, Refused
from landuse.core.paths import PARAMS
from landuse.init import init
from landuse.init.choices import choose
from landuse.init.survey import Survey, survey
from landuse.init.weights import WIDEST, Weights
from landuse.params import load_params


@pytest.fixture
def fresh(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as it comes, with its presets and the sample's params, of a user without weights elsewhere."""
    monkeypatch.delenv("LANDUSE_WEIGHTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
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
    table = init(str(folder), "other", "imagenet", force=True)
    assert load_params().register.model == "other"
    assert "this project has runs: they and their versions stay, and ingest replaces data/" in table
    assert "the params.yaml of before is kept as params.before.yaml" in table
    assert Path("params.before.yaml").read_bytes() == before


@pytest.mark.parametrize("name", ["a\nb", 'the "d', "\x1b[31mred", "<i>"])
def test_names_that_validation_refuses_are_refused_at_once(fresh: Path, tmp_path: Path, name: str) -> None:
    folder, before = make_images(tmp_path / "images"), PARAMS.read_bytes()
    (folder / "field").rename(folder / name)
    with pytest.raises(Refused, match="has <, >, a quote or an unprintable character: rename it"):
        init(str(folder), None, "imagenet", force=False)
    assert PARAMS.read_bytes() == before


@pytest.mark.parametrize("name", ["a\nevil: 1", "\x1b[31m", "a\u0085b", "a\u202eb"])
def test_a_folder_with_an_unprintable_name_is_refused_in_one_line(fresh: Path, tmp_path: Path, name: str) -> None:
    folder = make_images(tmp_path / name)
    with pytest.raises(Refused, match="has unprintable characters in its name: rename it") as refused:
        init(str(folder), None, "imagenet", force=False)
    assert str(refused.value).isprintable()


def test_runs_of_the_sample_are_told_of_where_nothing_was_edited(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    Path("artifacts").mkdir()
    Path("artifacts/run.json").write_text("{}")
    assert "this project has runs" in init(str(folder), None, "imagenet", force=False)


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


def parts_above(folder: Path) -> None:
    for part in ("train", "test"):
        make_images(folder / "all" / part)


def capital_letter(folder: Path) -> None:
    make_images(folder)
    shutil.copytree(folder / "water", folder / "Water")


def other_blank(folder: Path) -> None:
    make_images(folder)
    shutil.copytree(folder / "water", folder / "parking lot")
    shutil.copytree(folder / "water", folder / "parking_lot")


def other_accent(folder: Path) -> None:
    make_images(folder)
    for form in ("NFC", "NFD"):
        shutil.copytree(folder / "water", folder / normalize(form, "caf\N{LATIN SMALL LETTER E WITH ACUTE}"))


def class_per_image(folder: Path) -> None:
    for number in range(9):
        (folder / f"scene {number}").mkdir(parents=True)
        tiny.scene("field", number).save(folder / f"scene {number}" / "1.png")


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
        (
            parts_above,
            "lie in all/test and in all/train, which look like parts of a split: name one of them, as in "
            "landuse init .*/images/all/test ",
        ),
        (capital_letter, "the classes Water and water are one name in two spellings: put their images into one folder"),
        (other_blank, "the classes parking lot and parking_lot are one name in two spellings"),
        (other_accent, r"the classes 'cafe\\u0301' and 'caf\\xe9' are one name in two spellings"),
        (class_per_image, r"scene 0 \(1\), .*scene 4 \(1\) and 4 more: a class needs 5 images"),
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


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_parts_of_a_split_in_an_archive_are_named(fresh: Path, tmp_path: Path, kind: str) -> None:
    parts_above(tmp_path / "images")
    archive = shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, "images")
    with pytest.raises(Refused, match="lie in images/all/.* and in images/all/.*of an archive, unpack it first"):
        init(archive, None, "imagenet", force=False)


def test_one_part_of_a_split_alone_is_taken_as_the_images(fresh: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images" / "train")
    assert survey(tmp_path / "images").images == 25


@pytest.mark.parametrize("place", ["water", "water/0.png"])
def test_what_may_not_be_read_is_named(fresh: Path, tmp_path: Path, monkeypatch, place: str) -> None:
    folder = make_images(tmp_path / "images")
    refuse_reading(folder / place, monkeypatch)
    with pytest.raises(LanduseError, match=f"images.*Permission denied.*|{place} .*Permission denied") as caught:
        init(str(folder), None, "imagenet", force=False)
    assert place in str(caught.value) and "\n" not in str(caught.value)


def refuse_reading(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system refuse to read a file or folder, as it does not for root."""

    def refusing(function):
        def call(path, *args, **options):
            if str(path) == str(place):
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **options)

        return call

    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(Image, "open", refusing(Image.open))


@pytest.mark.slow
def test_a_hundred_thousand_other_files_cost_seconds(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    for number in range(10):
        notes = folder / "notes" / str(number)
        notes.mkdir(parents=True)
        (notes / "0").write_text("none")
        for link in range(1, 10_000):
            os.link(notes / "0", notes / str(link))
    start = process_time()
    found = survey(folder)
    assert (found.images, found.others) == (25, 100_000) and process_time() - start < 30
    shutil.rmtree(folder / "notes")


def geotiff(path: Path, unit: int, scale: float = 0.3, model: int = 1) -> None:
    """Write a GeoTIFF whose pixels have a side in a unit of the EPSG registry."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550], tags.tagtype[33550] = (scale, scale, 0.0), TiffTags.DOUBLE
    tags[34735], tags.tagtype[34735] = (1, 1, 0, 2, 1024, 0, 1, model, 3076, 0, 1, unit), TiffTags.SHORT
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny.scene("field", len(list(path.parent.iterdir()))).save(path, tiffinfo=tags)


@pytest.mark.parametrize(
    ("unit", "model", "text"),
    [(9001, 1, "0.3 m"), (9002, 1, "0.3 ft"), (9001, 2, "0.3 degrees"), (0, 1, "0.3 map units")],
)
def test_the_ground_resolution_is_read_from_the_tags(
    fresh: Path, tmp_path: Path, unit: int, model: int, text: str
) -> None:
    for label in ("a", "b"):
        for number in range(6):
            geotiff(tmp_path / "images" / label / f"{number}.tif", unit, model=model)
    geotiff(tmp_path / "images" / "b" / "other.tif", unit, scale=0.5, model=model)
    before = yaml.safe_load(Path("presets/ucmerced.yaml").read_text("utf-8")).keys()
    table = init(str(tmp_path / "images"), None, "imagenet", force=False)
    why = "13 of 13 images tell one; 1 other occurs"
    assert f"{text} a pixel" in table and why in table
    lines = PARAMS.read_text("utf-8").splitlines()
    assert (
        lines[1] == f"# Ground resolution: {text} a pixel ({why})."
        and yaml.safe_load("\n".join(lines)).keys() == before
    )


def test_the_ground_resolution_is_read_from_world_files(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    (folder / "water" / "0.pgw").write_text("0.3\n0.4\n0.4\n-0.3\n100.0\n200.0\n")
    (folder / "water" / "1.PGW").write_text("0.5\n0\n0\n-0.5\n100\n200\n")
    for number, text in enumerate(("none of these", "0.5", "0\n0\n0\n0\n1\n1\n", "nan\n0\n0\nnan\n1\n1\n")):
        (folder / "field" / f"{number}.pgw").write_text(text)
    found = survey(folder)
    assert found.resolutions == {"0.5 map units": 2} and found.others == 6


def test_without_a_ground_resolution_none_is_shown(fresh: Path, tmp_path: Path) -> None:
    table = init(str(make_images(tmp_path / "images")), None, "imagenet", force=False)
    assert "ground resolution" not in table and "Ground resolution" not in PARAMS.read_text("utf-8")


def write_weights(path: Path, widest: int = WIDEST, layers: int = 17, head: bool = False) -> Path:
    """Write a file with depthwise kernels like those of a backbone, and perhaps a head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for number in range(layers):
            file.create_dataset(f"layer_{number}/kernel", (3, 3, widest if number else 32, 1))
        if head:
            file.create_dataset("head/kernel", (1280, 1000))
    return path


def weights_after_init(folder: Path, option: str | None = None, ask=None) -> tuple[str, str]:
    """Return the weights that init wrote, and its row on them."""
    table = init(str(folder), None, option, force=True, ask=ask)
    return load_params().extract.weights, next(line for line in table.splitlines() if "extract.weights" in line)


def test_weights_of_this_machine_are_taken_and_named(fresh: Path, tmp_path: Path, monkeypatch) -> None:
    folder, keras_name = (
        make_images(tmp_path / "images"),
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{}_no_top.h5",
    )
    assert weights_after_init(folder) == ("imagenet", ANY)
    assert (
        "no others on this machine; Keras downloads them once; --weights names a file" in weights_after_init(folder)[1]
    )

    write_weights(tmp_path / "home" / ".keras" / "models" / keras_name.format(224))
    near = write_weights(tmp_path / "home" / ".keras" / "models" / keras_name.format(128))
    value, row = weights_after_init(folder)
    assert value == str(near) and "from the cache of Keras" in row

    write_weights(tmp_path / "cache" / "landuse" / "keras" / "models" / keras_name.format(96))
    assert (
        weights_after_init(folder)[0] == "imagenet" and "has downloaded them already" in weights_after_init(folder)[1]
    )

    write_weights(Path("weights/narrow.h5"), widest=336)
    write_weights(Path("weights/other.h5"), layers=13)
    write_weights(Path("weights/whole.h5"), head=True)
    Path("weights/broken.h5").write_bytes(b"none")
    write_weights(Path("weights/mine.h5"))
    value, row = weights_after_init(folder)
    assert value == "mine.h5" and "the file in weights/ that fits mobilenet_v2 1.0" in row

    given = write_weights(tmp_path / "given.h5")
    monkeypatch.setenv("LANDUSE_WEIGHTS", str(given))
    value, row = weights_after_init(folder)
    assert value == str(given) and "named by LANDUSE_WEIGHTS" in row
    assert weights_after_init(folder, "imagenet")[0] == "imagenet"


def test_relative_paths_of_weights_are_understood(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    write_weights(Path("weights/mine.h5"))
    outside = write_weights(tmp_path / "outside.h5")
    assert weights_after_init(folder, "weights/mine.h5")[0] == "mine.h5"
    assert Path(weights_after_init(folder, "../outside.h5")[0]).samefile(outside)


def test_several_files_that_fit_are_asked_for_or_named(fresh: Path, tmp_path: Path) -> None:
    folder, asked = make_images(tmp_path / "images"), []
    write_weights(Path("weights/a.h5"))
    write_weights(Path("weights/b.h5"))
    with pytest.raises(LanduseError, match=r"2 files in weights/ fit: name one, as in --weights a.h5"):
        init(str(folder), None, None, force=False)

    def ask(question: str, default: str) -> str:
        asked.append((question, default))
        return "b.h5"

    value, row = weights_after_init(folder, ask=ask)
    assert value == "b.h5" and "as chosen" in row and asked == [("Which weights: a.h5, b.h5, or imagenet", "a.h5")]


def test_without_weights_a_terminal_is_asked_and_a_wrong_answer_refused(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    before = PARAMS.read_bytes()
    with pytest.raises(LanduseError, match=r"none.h5: weights/none.h5 does not exist"):
        init(str(folder), None, None, force=False, ask=lambda question, default: "none.h5")
    assert PARAMS.read_bytes() == before
    assert weights_after_init(folder, ask=lambda question, default: default)[0] == "imagenet"


def test_the_command_asks_nothing_where_no_terminal_is(fresh: Path, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images")
    done = CliRunner().invoke(app, ["init", str(folder)], input="other.h5\n")
    assert done.exit_code == 0 and "Which weights" not in done.output and load_params().extract.weights == "imagenet"


def test_a_variable_with_weights_of_nothing_is_refused(fresh: Path, monkeypatch) -> None:
    monkeypatch.setenv("LANDUSE_WEIGHTS", "/nowhere.h5")
    with pytest.raises(LanduseError, match="LANDUSE_WEIGHTS=/nowhere.h5: /nowhere.h5 does not exist"):
        init("nowhere", None, None, force=False)


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


@pytest.mark.parametrize("images", [5, 20, 100, 10_000, 100_000])
def test_the_gate_is_wider_where_there_are_fewer_held_out_images(images: int) -> None:
    found = Survey()
    for label in "ab":
        found.classes[label] = images
    found.sizes[(256, 256)] = found.modes["RGB"] = 2 * images
    values = {
        choice.key: choice.value
        for choice in choose(found, "x", "x", Weights("none", ""))
        if choice.section == "promote"
    }
    split = {choice.value for choice in choose(found, "x", "x", Weights("none", "")) if choice.section == "split"}
    assert split == {{10_000: 0.1, 100_000: 0.05}.get(images, 0.2)}
    expected = {100_000: (0.01, 0.05), 5: (0.45, 0.85), 20: (0.23, 0.45), 100: (0.1, 0.2), 10_000: (0.01, 0.05)}[images]
    assert (values["margin"], values["max_class_fall"]) == pytest.approx(expected, abs=0.02)
    assert 0 < values["min_images"] <= 0.4 * images
