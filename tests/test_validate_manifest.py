"""The manifest describes every image, whatever state it is in."""

from hashlib import md5, sha256
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from landuse import sample
from landuse.core.errors import LanduseError
from landuse.ml import image_rows
from landuse.ml.images import view
from landuse.ml.perceptual_hash import parse_hashes, view_hashes, within_distance
from landuse.validate import manifest as manifest_module
from landuse.validate.manifest import COLUMNS, build_manifest, known_contents, write_manifest


def noise(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of three images each."""
    for seed in range(6):
        save(noise(seed), tmp_path / "data" / ("field", "river")[seed % 2] / f"{seed}.png")
    return tmp_path / "data"


def test_a_manifest_row_describes_an_image(tmp_path: Path) -> None:
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, :5] = (200, 100, 0)
    file = save(Image.fromarray(pixels), tmp_path / "field" / "a.png")
    row = build_manifest(tmp_path).iloc[0]
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)
    assert [row["path"], row["label"], row["mode"], row["format"]] == ["field/a.png", "field", "RGB", "PNG"]
    assert [row["width"], row["height"], row["bytes"]] == [10, 4, file.stat().st_size]
    assert row["sha256"] == sha256(file.read_bytes()).hexdigest()
    assert [row["red"], row["green"], row["blue"]] == [100, 50, 0]
    assert [row["brightness"], row["contrast"]] == [round(grey.mean(), 3), round(grey.std(), 3)]
    assert row["decodes"] and row["reason"] == ""


def test_similar_images_have_similar_hashes_and_others_do_not(tmp_path: Path) -> None:
    image = noise(1, (9, 8)).resize((90, 80), Image.Resampling.BICUBIC)
    save(image, tmp_path / "a" / "0.png")
    save(image.resize((45, 60)).point(lambda level: level * 0.8), tmp_path / "a" / "1.jpg")
    save(noise(2, (9, 8)).resize((90, 80)), tmp_path / "a" / "2.png")
    first, alike, other = (int(bits, 16) for bits in build_manifest(tmp_path)["phash"])
    assert (first ^ alike).bit_count() <= 3 < 16 < (first ^ other).bit_count()


def test_a_turned_or_mirrored_image_has_the_hash_of_one_of_the_views(tmp_path: Path) -> None:
    scenes = [sample.draw(label, 7) for label in sample.CLASSES]
    for number, scene in enumerate(scenes):
        turned = Image.fromarray(view(np.asarray(scene), number % 8))
        save(scene, tmp_path / "a" / f"{number}.png")
        (tmp_path / "b").mkdir(exist_ok=True)
        turned.save(tmp_path / "b" / f"{number}.jpg", quality=95)
    manifest = build_manifest(tmp_path)
    first, second = (rows.reset_index() for _, rows in manifest.groupby("label"))
    assert (within_distance(view_hashes(first)[:, 0], view_hashes(second), 2) == np.eye(len(scenes), dtype=bool)).all()
    assert (view_hashes(first)[:, 0] == parse_hashes(first["phash"])).all()


def test_the_manifest_has_fixed_dtypes_and_is_byte_identical_for_equal_images(data: Path) -> None:
    files = []
    for folder in (data, copytree(data, data.with_name("again"))):
        write_manifest(build_manifest(folder), folder.with_suffix(".parquet"))
        files.append(folder.with_suffix(".parquet").read_bytes())
    assert files[0] == files[1]
    (data / "field" / "0.png").write_bytes(b"")
    manifests = [build_manifest(data), build_manifest(data / "nothing"), pd.read_parquet(data.with_suffix(".parquet"))]
    (data / "field" / "2.png").unlink()
    (data / "field" / "4.png").unlink()
    manifests.append(build_manifest(data))
    assert all({name: str(kind) for name, kind in frame.dtypes.items()} == COLUMNS for frame in manifests)


@pytest.mark.parametrize("name", ["<b>.png", 'a".png', "two\nlines.png"])
def test_a_name_that_would_break_a_message_or_a_page_is_refused(data: Path, name: str) -> None:
    save(noise(1), data / "field" / name)
    with pytest.raises(LanduseError, match="rename it") as caught:
        build_manifest(data)
    assert "\n" not in str(caught.value)


@pytest.fixture
def cached(data: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A manifest in DVC's cache, with one image that does not decode; its project as the working directory."""
    monkeypatch.chdir(data.parent)
    (data / "field" / "0.png").write_bytes(b"no image")
    manifest = build_manifest(data)
    cache_manifest(manifest)
    return manifest


def cache_manifest(manifest: pd.DataFrame) -> None:
    """Put a manifest into DVC's cache, and its MD5 into dvc.lock."""
    write_manifest(manifest, Path("manifest.parquet"))
    content = Path("manifest.parquet").read_bytes()
    digest = md5(content).hexdigest()
    path = Path(".dvc/cache/files/md5", digest[:2], digest[2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    out = {"path": "artifacts/manifest.parquet", "md5": digest}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"validate": {"outs": [out]}}}))


def test_what_an_earlier_manifest_says_of_the_same_content_is_reused(data: Path, cached: pd.DataFrame) -> None:
    known = known_contents()
    assert {*known.index} == {*cached.loc[cached["decodes"], "sha256"]}
    (data / "field" / "2.png").rename(data / "field" / "renamed.png")
    save(noise(99), data / "field" / "4.png")
    save(noise(98), data / "field" / "new.png")
    updated, scratch = build_manifest(data, known), build_manifest(data)
    write_manifest(updated, Path("updated.parquet"))
    write_manifest(scratch, Path("scratch.parquet"))
    assert Path("updated.parquet").read_bytes() == Path("scratch.parquet").read_bytes()
    assert updated["sha256"].isin(known.index).sum() == cached["decodes"].sum() - 1


def test_a_known_content_is_not_decoded_again(
    data: Path, cached: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    monkeypatch.setattr(image_rows, "image_statistics", lambda image: decoded.append(image) or {})
    save(noise(98), data / "field" / "new.png")
    build_manifest(data, known_contents())
    assert len(decoded) == 1


def test_rows_that_other_code_or_packages_made_are_not_reused(
    cached: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = manifest_module.manifest_origin()
    assert {*origin} == {"code", "numpy", "pillow"}
    for key in origin:
        monkeypatch.setattr(manifest_module, "manifest_origin", lambda key=key: origin | {key: "other"})
        assert known_contents() is None, key


@pytest.mark.parametrize("name", ["manifest", "images", "image_formats", "perceptual_hash"])
def test_every_module_that_makes_a_row_belongs_to_its_origin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = manifest_module.manifest_origin(), Path.read_bytes
    changed = lambda path: read(path) + (b"#" if path.stem == name else b"")  # noqa: E731
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert manifest_module.manifest_origin()["code"] != before["code"]


def test_a_damaged_manifest_in_the_cache_is_not_used(cached: pd.DataFrame) -> None:
    (path,) = (path for path in Path(".dvc/cache/files").rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1])
    assert known_contents() is None
