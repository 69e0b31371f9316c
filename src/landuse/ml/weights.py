"""Files of pretrained weights, read without TensorFlow."""

from contextlib import suppress
from pathlib import Path

import h5py

from landuse.core.paths import WEIGHTS
from landuse.params.backbones import BACKBONES

WITHOUT_FILE = ("none", "imagenet")  # values of `extract.weights` that name no file


def weights_file(name: str) -> Path:
    """Return the path of `extract.weights`, which names a file in `weights/` or an absolute path."""
    return WEIGHTS / name


def backbone_of_weights(file: Path) -> str | None:
    """Return the backbone that the weights in a file belong to, by its depthwise layers; None if it is none of ours."""
    kernels = 0

    def count(_: str, item: object) -> None:
        nonlocal kernels
        kernels += isinstance(item, h5py.Dataset) and len(item.shape) == 4 and item.shape[0] > 1 == item.shape[3]

    with suppress(OSError), h5py.File(file) as weights:
        weights.visititems(count)
    return next((name for name, spec in BACKBONES.items() if spec.depthwise == kernels), None)


def describe_misfit(name: str, backbone: str) -> str | None:
    """Say why the file of `extract.weights` cannot belong to a backbone; None if it may, or no file is named."""
    file = weights_file(name)
    if name in WITHOUT_FILE:
        return None
    if file.is_dir():
        return f"{file} is a folder; name a file in it"
    if not file.is_file():
        return f"{file} does not exist; name a file in weights/, an absolute path, or none"
    owner = backbone_of_weights(file)
    if owner not in (None, backbone):
        return f"holds weights of {owner}, and extract.backbone = {backbone}; change one of the two"
    return None
