"""Validation checks every image: errors raise one line and are shown on a page; warnings are shown only."""

import json
import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from shutil import Error, copy, copytree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from landuse.core.errors import LanduseError, Refused
from landuse.params import ValidateParams, load_params
from landuse.validate import context, validate
from landuse.validate.findings import Finding, Offender, ValidationResult
from landuse.validate.page import render_page
from landuse.validate.suites import CHECKS
from landuse.validate.write_suites import outdated_files

ROOT = Path(__file__).parents[1]
PARAMS = ValidateParams(
    classes=("field", "river"),
    images_per_class=2,
    imbalance=2.0,
    modes=("RGB",),
    size=16,
    smallest=8,
    brightness=(10, 245),
    contrast=3,
)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def noise(seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).convert(mode)


def save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of three good images each."""
    for seed in range(6):
        save(noise(seed), tmp_path / "data" / ("field", "river")[seed % 2] / f"{seed}.png")
    return tmp_path / "data"


def refuse(data: Path) -> tuple[str, str, dict]:
    """Validate data that must be refused; return the error, the page and the JSON."""
    output = data.with_name("artifacts")
    with pytest.raises(Refused) as caught:
        validate(PARAMS, data, output)
    assert "\n" not in str(caught.value)
    assert str(output / "validation.html") in str(caught.value)
    page, report = (output / "validation.html").read_text(), json.loads((output / "validation.json").read_text())
    assert "<h1>Failed</h1>" in page
    assert not report["success"]
    return str(caught.value), page, report


def finding(report: dict, name: str) -> dict:
    return next(item for item in report["expectations"] if item["name"] == name)


def truncate(path: Path) -> None:
    buffer = BytesIO()
    noise(9, (64, 64)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue()[:1500])


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, dict]:
    """A data set with every kind of error: the error, the page and the JSON."""
    data = tmp_path_factory.mktemp("bad") / "data"
    for seed in range(130):
        save(noise(seed, (17, 17)), data / ("field", "river")[seed % 2] / f"{seed:03}.png")
    (data / "field" / "empty.jpg").write_bytes(b"")
    (data / "field" / "words.jpg").write_text("these are words")
    (data / "field" / "folder.jpg").mkdir()
    copy(data / "field" / "000.png", data / "river" / "same.png")
    save(noise(200), data / "lake" / "0.png")
    save(noise(201), data / "lake" / "1.png")
    noise(201).save(data / "lake" / "1.jpg", quality=100, subsampling=0)
    noise(201).save(data / "river" / "1.png", compress_level=1)
    noise(202).save(data / "field" / "two.jpg", "MPO", save_all=True, append_images=[noise(206)])
    save(noise(203, mode="L"), data / "field" / "grey.png")
    save(noise(204, (7, 16)), data / "field" / "narrow.png")
    save(noise(205, (16, 6)), data / "field" / "low.png")
    for colour, name in (("white", "white"), ("black", "black"), ("grey", "plain")):
        save(Image.new("RGB", (16, 16), colour), data / "field" / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return refuse(data)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[ValidationResult, Path]:
    """The result for images that pass with warnings, and the output folder."""
    folder = tmp_path_factory.mktemp("odd")
    for seed in range(200):
        save(noise(seed), folder / "data" / ("field", "river")[seed % 2] / f"{seed:03}.png")
    save(noise(300, (20, 14)), folder / "data" / "field" / "wide $path & 'x'.png")
    save(Image.new("RGB", (16, 16), "black"), folder / "data" / "river" / "black.png")
    copy(folder / "data" / "field" / "002.png", folder / "data" / "field" / "copy.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        before = {path: path.read_bytes() for path in (ROOT / "gx").rglob("*") if path.is_file()}
        result = validate(PARAMS, folder / "data", folder / "out")
        assert before == {path: path.read_bytes() for path in (ROOT / "gx").rglob("*") if path.is_file()}
    return result, folder / "out"


def test_the_committed_suites_match_the_list_in_the_code() -> None:
    assert outdated_files() == []
    assert len(CHECKS) >= 15
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_an_edited_suite_is_detected_and_regenerated(tmp_path: Path) -> None:
    gx = copytree(ROOT / "gx", tmp_path / "gx")
    suite = gx / "expectations" / "images.json"
    suite.write_text(suite.read_text().replace("512", "500"))
    (gx / "checkpoints" / "classes.json").unlink()
    (gx / "expectations" / "forgotten.json").write_text("{}")
    wrong = ["checkpoints/classes.json", "expectations/forgotten.json", "expectations/images.json"]
    assert outdated_files(gx, rewrite=True) == wrong
    assert outdated_files(gx) == []


def test_a_truncated_image_is_refused_with_its_reason_and_a_page(data: Path) -> None:
    truncate(data / "field" / "half.jpg")
    error, page, report = refuse(data)
    assert re.search(r"must decode.*; fails for field/half\.jpg \(image file is truncated .*Repair the images", error)
    assert page.count("does not decode</span>") == 1
    assert finding(report, "decodes")["offenders"][0]["paths"] == ["field/half.jpg"]
    row = pd.read_parquet(data.with_name("artifacts") / "manifest.parquet").set_index("path").loc["field/half.jpg"]
    assert pd.isna(row["width"]) and pd.isna(row["phash"]) and pd.isna(row["red"]) and not row["decodes"]


def test_an_empty_data_set_is_an_error_that_says_how_to_get_images(tmp_path: Path) -> None:
    (tmp_path / "data" / "field").mkdir(parents=True)
    error, _, report = refuse(tmp_path / "data")
    assert "There must be images" in error and "landuse ingest" in error
    assert report["images"] == report["classes"] == 0


def test_a_single_class_is_refused_and_the_missing_one_named(data: Path) -> None:
    (data / "river").rename(data.with_name("elsewhere"))
    assert "validate.classes must have images; fails for river (images 0)" in refuse(data)[0]


def test_a_class_with_one_image_is_refused_with_its_count(data: Path) -> None:
    (data / "river" / "1.png").unlink()
    (data / "river" / "3.png").unlink()
    error, _, report = refuse(data)
    assert "at least 2 (validate.images_per_class); fails for river (images 1)" in error
    assert finding(report, "imbalance")["offenders"][0]["found"] == "imbalance 3"


@pytest.mark.parametrize(
    ("name", "offender", "found"),
    [
        ("decodes", "field/empty.jpg", "the file is empty"),
        ("decodes", "field/folder.jpg", "the file cannot be read: Is a directory"),
        ("decodes", "field/words.jpg", "not a TIFF, JPEG, PNG or WebP image"),
        ("known_classes", "lake/0.png", "label lake"),
        ("one_label", "field/000.png", "same file as river/same.png"),
        ("modes", "field/grey.png", "mode L"),
        ("width", "field/narrow.png", "width 7"),
        ("height", "field/low.png", "height 6"),
        ("most_brightness", "field/white.png", "brightness 255"),
        ("most_contrast", "field/plain.png", "contrast 0"),
        ("lookalikes", "lake/1.jpg", "looks like lake/1.png, river/1.png"),
        ("formats", "field/two.jpg", "format MPO"),
    ],
)
def test_every_kind_of_error_is_shown_with_its_value(
    bad: tuple[str, str, dict], name: str, offender: str, found: str
) -> None:
    _, page, report = bad
    offenders = {item["name"]: item["found"] for item in finding(report, name)["offenders"]}
    assert offenders[offender] == found
    section = re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]
    assert offender.replace("/", "/<wbr>") in section


def test_identical_images_are_shown_side_by_side(bad: tuple[str, str, dict]) -> None:
    pair = r'class="card together"><div><img [^>]*alt="field/000.png"[^>]*><img [^>]*alt="river/same.png"'
    assert re.search(pair, bad[1])


def test_many_offenders_are_counted_in_full_and_shown_in_part(bad: tuple[str, str, dict]) -> None:
    _, page, report = bad
    size = finding(report, "size")
    assert size["unexpected"] > len(size["offenders"]) == 100
    section = re.search(r'<section id="size".*?</section>', page, re.DOTALL)[0]
    assert section.count("<img") == 60 and f"and {size['unexpected'] - 60} more" in section


def test_good_images_pass_silently_and_a_second_run_is_identical(data: Path, capfd: pytest.CaptureFixture) -> None:
    output, reports = data.with_name("artifacts"), []
    for _ in range(2):
        result = validate(PARAMS, data, output)
        reports.append({name: (output / name).read_bytes() for name in ("manifest.parquet", "validation.json")})
    assert (result.success, result.images, result.classes, result.errors, result.warnings) == (True, 6, 2, 0, 0)
    assert "<h1>Passed</h1>" in (output / "validation.html").read_text()
    assert reports[0] == reports[1]
    assert len(list((output / "data_docs" / "validations" / "images").glob("*/*"))) == 1
    assert capfd.readouterr() == ("", "")


def test_odd_images_pass_with_warnings(odd: tuple[ValidationResult, Path]) -> None:
    result, _ = odd
    warned = {
        item.name: [offender.name for offender in item.offenders] for item in result.expectations if not item.success
    }
    wide = "field/wide $path & 'x'.png"
    assert (result.success, result.errors) == (True, 0)
    assert warned == {
        "size": [wide],
        "square": [wide],
        "duplicates": ["field/002.png"],
        "brightness": ["river/black.png"],
        "contrast": ["river/black.png"],
        "small_files": ["river/black.png"],
    }


def test_validation_json_contains_the_result(odd: tuple[ValidationResult, Path]) -> None:
    result, output = odd
    report = json.loads((output / "validation.json").read_text())
    assert {key: report[key] for key in ("success", "images", "classes", "errors", "warnings")} == {
        "success": True, "images": 203, "classes": 2, "errors": 0, "warnings": result.warnings,
    }  # fmt: skip
    assert finding(report, "most_contrast")["success"]
    assert finding(report, "contrast")["unexpected"] == 1


def test_the_page_needs_no_network_and_escapes_names(odd: tuple[ValidationResult, Path]) -> None:
    page = (odd[1] / "validation.html").read_text()
    assert "<h1>Passed with warnings</h1>" in page
    assert not re.search(r"https?:|<script|<link|url\(", page)
    assert "wide $path &amp; &#39;x&#39;.png" in page and "wide $path & " not in page
    assert all(f"field/<wbr>{name}.png" in page for name in ("002", "copy"))


def test_html_in_a_class_or_file_name_is_shown_and_not_interpreted(tmp_path: Path) -> None:
    tag = """'"><img src=x onerror=alert(1)>&"""
    offender = Offender(f"{tag}/a.png", f"label {tag}", (f"{tag}/a.png",))
    finding = Finding("known_classes", "images", "critical", tag, False, f"found {tag}", 1, (offender,))
    result = ValidationResult(False, 1, 1, 1, 0, (finding,), 0)
    for decodes in (True, False):
        save(noise(1), tmp_path / tag / tag / "a.png")
        manifest = pd.DataFrame({"path": [f"{tag}/a.png"], "label": [tag], "decodes": [decodes]})
        page = render_page(result, manifest, tmp_path / tag, [f"data_docs/{tag}.html"])
        assert "<img src=x" not in page
        assert page.count("&#39;&#34;&gt;&lt;img src=x onerror=alert(1)&gt;&amp;") == (13 if decodes else 11)


def test_the_page_links_to_the_data_docs_of_its_run(odd: tuple[ValidationResult, Path]) -> None:
    _, output = odd
    links = re.findall(r'href="(data_docs/[^"]+)"', (output / "validation.html").read_text())
    assert len(links) == 3
    for link in links:
        results = re.findall(r"""href="([^"]+)""", (output / link).read_text())
        assert "Expectation Validation Result" in (output / "data_docs" / results[0]).read_text()


def test_data_docs_that_cannot_be_written_are_a_one_line_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise Error([("one", "other", "[Errno 28] No space left on device")])

    monkeypatch.setattr(context, "move", full)
    with pytest.raises(LanduseError, match="data_docs cannot be written: .Errno 28. No space left on device$"):
        validate(load_params().validate, data, data.with_name("artifacts"))


def test_outside_the_project_the_missing_suites_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    with pytest.raises(LanduseError, match="gx/ is not here"):
        validate(PARAMS, data, data.with_name("artifacts"))


def test_importing_validate_does_not_import_great_expectations() -> None:
    code = "import sys, landuse.validate; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif("LANDUSE_SOURCE" not in os.environ, reason="LANDUSE_SOURCE names no archive of the real images")
def test_the_real_images_pass_and_their_known_oddities_are_shown(tmp_path: Path) -> None:
    with zipfile.ZipFile(os.environ["LANDUSE_SOURCE"]) as archive:
        archive.extractall(tmp_path)
    data = next(tmp_path.rglob("airplane")).parent
    result = validate(load_params(Path("presets/ucmerced.yaml")).validate, data, tmp_path / "artifacts")
    odd = {item.name: item for item in result.expectations if not item.success}
    assert (result.success, result.images, result.classes) == (True, 2100, 21)
    assert odd["size"].unexpected == 44
    assert [offender.paths for offender in odd["duplicates"].offenders] == [
        ("airplane/airplane01.jpg", "airplane/airplane02.jpg")
    ]
