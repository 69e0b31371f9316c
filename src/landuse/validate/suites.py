"""The requirements on the images: the single list from which the Great Expectations suites in `gx/` are generated."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from landuse.params import ValidateParams
from landuse.validate.manifest import COLUMNS

Severity = Literal["critical", "warning"]

TABLES = {"images": "path", "classes": "label", "contents": "path"}  # table: its key column


@dataclass(frozen=True)
class Check:
    """One expectation: its table, its description for readers, and its Great Expectations class and arguments.

    A failed critical check makes `validate` raise. `words` refer to keys of `params.yaml` in braces. `grouped_by` is
    the manifest column that the images of one row of `contents` share.
    """

    table: str
    severity: Severity
    name: str
    words: str
    expectation: str
    arguments: dict[str, Any]
    grouped_by: str = ""


def param(name: str) -> dict[str, str]:
    """Return a reference that `suite_parameters` resolves at run time, so that suites work for every data set."""
    return {"$PARAMETER": name}


def suite_parameters(params: ValidateParams) -> dict[str, Any]:
    """Return the values that the suites take from `params.yaml`, by the name used in the suites."""
    return {
        "classes": list(params.classes),
        "images_per_class": params.images_per_class,
        "imbalance": params.imbalance,
        "modes": list(params.modes),
        "sizes": [[params.size, params.size]],  # allowed pairs of width and height
        "smallest": params.smallest,
        "darkest": params.brightness[0],
        "brightest": params.brightness[1],
        "contrast": params.contrast,
    }


def fill_in_params(words: str, params: ValidateParams | None = None) -> str:
    """Replace each `{key}` in the words of a check by the name of the param, preceded by its value if given."""

    def format_param(key: str) -> str:
        name, value = f"validate.{key}", getattr(params, key, None)
        if value is None:
            return name
        values = value if isinstance(value, tuple) else (value,)
        text = " to ".join(f"{item:g}" for item in values) if key != "modes" else " or ".join(values)
        return f"{text} ({name})"

    return re.sub(r"{(\w+)}", lambda match: format_param(match[1]), words)


BRIGHTNESS = {"column": "brightness", "min_value": param("darkest"), "max_value": param("brightest")}
CONTRAST = {"column": "contrast", "min_value": param("contrast")}
CHANNEL_RANGE = {"min_value": 30, "max_value": 225}

CHECKS = [
    Check("images", "critical", "rows", "There must be images, as <class>/<image>",
          "ExpectTableRowCountToBeBetween", {"min_value": 1}),
    Check("images", "critical", "columns", "The manifest must have its columns, in order",
          "ExpectTableColumnsToMatchOrderedList", {"column_list": list(COLUMNS)}),
    Check("images", "critical", "paths", "Every image must have a path",
          "ExpectColumnValuesToNotBeNull", {"column": "path"}),
    Check("images", "critical", "unique_paths", "Every path must be in the manifest once",
          "ExpectColumnValuesToBeUnique", {"column": "path"}),
    Check("images", "critical", "decodes", "Every image must decode to its end",
          "ExpectColumnValuesToBeInSet", {"column": "decodes", "value_set": [True]}),
    Check("images", "critical", "known_classes", "Every folder must be one of validate.classes",
          "ExpectColumnValuesToBeInSet", {"column": "label", "value_set": param("classes")}),
    Check("classes", "critical", "all_classes", "Every one of validate.classes must have images",
          "ExpectColumnValuesToBeBetween", {"column": "images", "min_value": 1}),
    Check("classes", "critical", "images_per_class", "Images in every class must be at least {images_per_class}",
          "ExpectColumnValuesToBeBetween", {"column": "images", "min_value": param("images_per_class")}),
    Check("classes", "critical", "imbalance", "The largest class must be at most {imbalance} times any other",
          "ExpectColumnValuesToBeBetween", {"column": "imbalance", "max_value": param("imbalance")}),
    Check("contents", "critical", "one_label", "No file may be in two classes",
          "ExpectColumnValuesToBeBetween", {"column": "labels", "max_value": 1}, grouped_by="sha256"),
    Check("images", "critical", "modes", "The mode of every image must be {modes}",
          "ExpectColumnValuesToBeInSet", {"column": "mode", "value_set": param("modes")}),
    Check("images", "critical", "width", "The width of every image must be at least {smallest}",
          "ExpectColumnValuesToBeBetween", {"column": "width", "min_value": param("smallest")}),
    Check("images", "critical", "height", "The height of every image must be at least {smallest}",
          "ExpectColumnValuesToBeBetween", {"column": "height", "min_value": param("smallest")}),
    Check("images", "critical", "most_brightness", "The brightness of 99 % of the images must be {brightness}",
          "ExpectColumnValuesToBeBetween", {**BRIGHTNESS, "mostly": 0.99}),
    Check("images", "critical", "most_contrast", "The contrast of 99 % of the images must be at least {contrast}",
          "ExpectColumnValuesToBeBetween", {**CONTRAST, "mostly": 0.99}),
    Check("images", "critical", "bytes", "No file may be empty",
          "ExpectColumnValuesToBeBetween", {"column": "bytes", "min_value": 1}),
    Check("images", "critical", "checksums", "Every SHA-256 must be 64 hex digits",
          "ExpectColumnValuesToMatchRegex", {"column": "sha256", "regex": "^[0-9a-f]{64}$"}),
    Check("images", "critical", "hashes", "Every perceptual hash must be 16 hex digits",
          "ExpectColumnValuesToMatchRegex", {"column": "phash", "regex": "^[0-9a-f]{16}$"}),
    Check("images", "warning", "size", "Width and height of every image should be {size}",
          "ExpectColumnPairValuesToBeInSet",
          {"column_A": "width", "column_B": "height", "value_pairs_set": param("sizes")}),
    Check("images", "warning", "square", "Every image should be square; others are squeezed",
          "ExpectColumnPairValuesToBeEqual", {"column_A": "width", "column_B": "height"}),
    Check("contents", "warning", "duplicates", "No file should be there twice",
          "ExpectColumnValuesToBeBetween", {"column": "images", "max_value": 1}, grouped_by="sha256"),
    Check("contents", "warning", "lookalikes", "Images with the same perceptual hash should be in one class",
          "ExpectColumnValuesToBeBetween", {"column": "lookalike_labels", "max_value": 1}, grouped_by="phash"),
    Check("images", "warning", "brightness", "The brightness of every image should be {brightness}",
          "ExpectColumnValuesToBeBetween", BRIGHTNESS),
    Check("images", "warning", "contrast", "The contrast of every image should be at least {contrast}",
          "ExpectColumnValuesToBeBetween", CONTRAST),
    Check("images", "warning", "small_files", "Every file should have at least 512 bytes",
          "ExpectColumnValuesToBeBetween", {"column": "bytes", "min_value": 512}),
    Check("images", "warning", "formats", "The format of every image should be JPEG, PNG, TIFF or WEBP",
          "ExpectColumnValuesToBeInSet", {"column": "format", "value_set": ["JPEG", "PNG", "TIFF", "WEBP"]}),
    Check("images", "warning", "red", "The mean of red over all images should be 30 to 225",
          "ExpectColumnMeanToBeBetween", {"column": "red", **CHANNEL_RANGE}),
    Check("images", "warning", "green", "The mean of green over all images should be 30 to 225",
          "ExpectColumnMeanToBeBetween", {"column": "green", **CHANNEL_RANGE}),
    Check("images", "warning", "blue", "The mean of blue over all images should be 30 to 225",
          "ExpectColumnMeanToBeBetween", {"column": "blue", **CHANNEL_RANGE}),
]  # fmt: skip
