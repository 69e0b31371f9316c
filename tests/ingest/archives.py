"""Small data sets as folders, zips and tars, and helpers for the ingest tests."""

import io
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from dvc.repo import Repo
from PIL import Image

from landuse import ingest
from landuse.params import DataParams, ValidateParams

WRONG = "md5:" + "0" * 32
CHECKS = ValidateParams(
    classes=("field", "water"),
    images_per_class=2,
    imbalance=3,
    modes=("RGB",),
    size=32,
    smallest=16,
    brightness=(10, 245),
    contrast=3,
)


def picture(seed: int) -> bytes:
    """Return a PNG of noise that depends on the seed."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(seed: int = 0) -> dict[str, bytes]:
    """Return two images in each of two classes."""
    names = ("field/a.png", "field/b.png", "water/a.png", "water/b.png")
    return {name: picture(seed + number) for number, name in enumerate(names)}


def folder_of(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, so the bytes are the same every time
    return path


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ingest_source(
    source: Path | str, checks: ValidateParams = CHECKS, checksum: str | None = None
) -> ingest.IngestResult:
    return ingest.ingest(DataParams(source=str(source), checksum=checksum), checks)


def set_requirements(checks: ValidateParams) -> None:
    """Write the validation requirements to params.yaml."""
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    params["validate"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(checks).items()
    }
    params["promote"]["families"] = []
    path.write_text(yaml.safe_dump(params))


def is_data_current() -> bool:
    """Return True if data/ matches data.dvc."""
    return is_current("data.dvc")


def is_current(stage: str) -> bool:
    """Return True if a stage is up to date in DVC."""
    with Repo() as repo:
        return repo.status([stage]) == {}
