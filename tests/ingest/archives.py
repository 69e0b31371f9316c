"""Small sets of images, as folders, zips and tars, and what the tests of ingestion do with them."""

import io
import tarfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from dvc.repo import Repo
from PIL import Image

from landuse import ingest as room
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
    """A PNG of noise, another one for every seed."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def pictures(seed: int = 0) -> dict[str, bytes]:
    """Two images in each of two classes."""
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
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: the same bytes every time
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


def bring_in(source: Path | str, checks: ValidateParams = CHECKS, checksum: str | None = None) -> room.Ingested:
    return room.ingest(DataParams(source=str(source), checksum=checksum), checks)


def ask_for(checks: ValidateParams) -> None:
    """Write the checks into params.yaml."""
    path = Path("params.yaml")
    params = yaml.safe_load(path.read_text())
    params["validate"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(checks).items()
    }
    params["promote"]["families"] = []
    path.write_text(yaml.safe_dump(params))


def in_step() -> bool:
    """Whether data/ is what data.dvc says."""
    return is_current("data.dvc")


def is_current(stage: str) -> bool:
    """Whether DVC has nothing to do for a stage."""
    with Repo() as repo:
        return repo.status([stage]) == {}
