"""The manifest, with one row of metadata and pixel statistics per image, and the tables derived from it."""

from collections.abc import Iterable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import pandas as pd

from landuse.core.paths import MANIFEST
from landuse.ml import image_file, image_formats, image_rows, images, perceptual_hash
from landuse.ml.image_file import ImageFile
from landuse.ml.image_rows import DigestTask, ManifestRow, RowTask
from landuse.ml.images import image_paths, refuse_unsafe_name
from landuse.ml.perceptual_hash import PHASH, PHASH_TURNED
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.project.dvc_cache import read_cached
from landuse.project.earlier import earlier_outputs
from landuse.project.lineage import origin

ORIGIN = "origin"
MOST_MANIFESTS = 8
AT_ONCE = 10_000  # rows
CODE = (image_rows, image_file, images, image_formats, perceptual_hash)  # besides this module
PACKAGES = frozenset({"pillow", "numpy"})
COLUMNS = {
    "path": "str",
    "label": "str",
    "width": "Int64",
    "height": "Int64",
    "mode": "str",
    "format": "str",
    "bytes": "Int64",
    "sha256": "str",
    PHASH: "str",
    PHASH_TURNED: "str",
    "red": "float64",
    "green": "float64",
    "blue": "float64",
    "brightness": "float64",
    "contrast": "float64",
    "decodes": "bool",
    "reason": "str",
}


def build_manifest(data: Path, known: pd.DataFrame | None = None, pool: Pool = THIS_PROCESS) -> pd.DataFrame:
    """Return one row per image `<class>/<image>` in a folder, sorted by path, with the dtypes of COLUMNS.

    Contents that are `known` (rows by sha256, as of `known_contents`) are not decoded again. If an image does not
    decode, `reason` says why and the columns computed from its pixels are missing.
    Raises Refused for a name that is unsafe in a one-line message or in the HTML of the Data Docs.
    """
    paths = image_paths(data)
    for path in paths:
        refuse_unsafe_name(path.as_posix())
    images = list(map(ImageFile, paths, pool.locate(data / path for path in paths)))
    reused, new = reuse_rows(images, known, pool)
    frame = pd.concat([reused, *described(new, pool)]).sort_values("path", ignore_index=True)
    frame.attrs = {ORIGIN: manifest_origin()}
    return frame


def reuse_rows(images: list[ImageFile], known: pd.DataFrame | None, pool: Pool) -> tuple[pd.DataFrame, list[ImageFile]]:
    """Return the rows of images whose content is known, and the other images."""
    if known is None or known.empty:
        return to_frame([]), images
    digests = pd.Series(list(pool.map(DigestTask(), images)), dtype="str")
    is_known = digests.isin(known.index).to_numpy()
    paths = [image.path for image, reused in zip(images, is_known, strict=True) if reused]
    rows = known.loc[digests[is_known].tolist()].rename_axis("sha256").reset_index()
    rows = rows.assign(path=[path.as_posix() for path in paths], label=[path.parent.name for path in paths])
    return rows[list(COLUMNS)].astype(COLUMNS), [
        image for image, reused in zip(images, is_known, strict=True) if not reused
    ]


def described(images: list[ImageFile], pool: Pool) -> Iterator[pd.DataFrame]:
    """Yield the rows of images, of some at a time, since a table needs less memory than what it is made of."""
    rows = pool.map(RowTask(), images)
    while part := list(islice(rows, AT_ONCE)):
        yield to_frame(part)


def to_frame(rows: list[ManifestRow]) -> pd.DataFrame:
    """Return rows as a table with the dtypes of COLUMNS."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def manifest_origin() -> dict[str, str]:
    """Return what a manifest depends on besides the images."""
    return origin((Path(__file__), *(Path(str(module.__file__)) for module in CODE)), PACKAGES)


def known_contents() -> pd.DataFrame | None:
    """Return the rows of earlier manifests that this code made, by sha256, without images that did not decode."""
    known = None
    for manifest in islice(earlier_manifests(), MOST_MANIFESTS):
        rows = manifest.drop_duplicates("sha256").set_index("sha256")
        known = rows if known is None else pd.concat([known, rows[~rows.index.isin(known.index)]])
    return known


def earlier_manifests() -> Iterator[pd.DataFrame]:
    """Yield the rows of images that decoded in each earlier manifest of this code, the latest first."""
    for md5 in earlier_outputs(MANIFEST):
        if (content := read_cached(md5)) is not None:
            manifest = pd.read_parquet(BytesIO(content))
            if manifest.attrs.get(ORIGIN) == manifest_origin():
                yield manifest[manifest["decodes"]]


def write_manifest(frame: pd.DataFrame, path: Path) -> None:
    """Write the manifest as Parquet; the same images give the same bytes."""
    frame.to_parquet(path, engine="pyarrow", index=False, compression="zstd")


def class_table(manifest: pd.DataFrame, classes: Iterable[str]) -> pd.DataFrame:
    """Return one row per class, expected or found: label, images, and imbalance (images of the largest class / own)."""
    counts = manifest["label"].value_counts()
    images = counts.reindex(sorted({*counts.index, *classes}), fill_value=0)
    imbalance = (images.max() / images.clip(lower=1)).round(2)
    return pd.DataFrame({"images": images, "imbalance": imbalance}).rename_axis("label").reset_index()


def content_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return one row per distinct file: sha256, phash, path of its first image, and its number of images and labels.

    `lookalike_labels` counts the labels of all images with the same perceptual hash, in the row of the first of them.
    """
    files = manifest.dropna(subset=["sha256"]).groupby("sha256", sort=False)
    table = files.agg(
        path=("path", "first"), images=("path", "size"), labels=("label", "nunique"), phash=("phash", "first")
    ).reset_index()
    lookalike_labels = table["phash"].map(manifest.groupby("phash")["label"].nunique()).astype("Int64")
    return table.assign(lookalike_labels=lookalike_labels.mask(table["phash"].duplicated()))
