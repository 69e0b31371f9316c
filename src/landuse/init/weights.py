"""Weights: the pretrained ones that are named, that this machine has, or that are asked for."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import h5py

from landuse.core.environment import keras_home
from landuse.core.errors import LanduseError
from landuse.core.paths import WEIGHTS
from landuse.ml.weights import backbone_of_weights, describe_misfit, weights_file

BACKBONE, WIDEST = "mobilenet_v2", 960  # of the template: its backbone, and channels of its widest depthwise layer
CACHED = re.compile(rf"{BACKBONE}_weights_tf_dim_ordering_tf_kernels_1\.0_(\d+)_no_top\.h5")  # Keras' name, by input
IMAGENET = "imagenet"
VARIABLE = "LANDUSE_WEIGHTS"
DOWNLOAD = "Keras downloads them once"
NONE_FOUND = f"no others on this machine; {DOWNLOAD}; --weights names a file"

Ask = Callable[[str, str], str]  # a question and the default answer → the answer


class Weights(NamedTuple):
    """A value of `extract.weights`, and where it comes from."""

    value: str
    why: str


def named_weights(option: str | None) -> Weights | None:
    """Return the weights of the option, or else of the environment variable; None if neither names any.

    Raises LanduseError if they cannot be used.
    """
    variable = os.environ.get(VARIABLE, "").strip()
    if option:
        return checked(option, "--weights ", DOWNLOAD if option == IMAGENET else "as given")
    return checked(variable, f"{VARIABLE}=", f"named by {VARIABLE}") if variable else None


def checked(name: str, giver: str, why: str) -> Weights:
    """Return weights by name. Raises LanduseError if the file does not exist or is of another network."""
    value = relative_to_weights(name)
    if misfit := describe_misfit(value, BACKBONE):
        raise LanduseError(f"{giver}{name}: {misfit}")
    return Weights(value, why)


def relative_to_weights(name: str) -> str:
    """Return the path of a file as `extract.weights` has it: its name in `weights/`, or else an absolute path."""
    path = Path(name).expanduser()
    if weights_file(name).exists() or not path.is_file():
        return name
    return path.name if path.resolve().parent == WEIGHTS.resolve() else str(path.absolute())


def find_weights(side: int, ask: Ask | None) -> Weights:
    """Return the weights that this machine has for an input of so many pixels, or ask which; without `ask`, imagenet.

    Files in `weights/` come first, then what Keras has downloaded. Raises LanduseError if several files in `weights/`
    fit and nobody can be asked, or the answer cannot be used.
    """
    own = sorted(path.name for path in WEIGHTS.glob("*.h5") if fits(path))
    if len(own) > 1:
        if ask is None:
            raise LanduseError(f"{len(own)} files in {WEIGHTS}/ fit: name one, as in --weights {own[0]}")
        return checked(ask(f"Which weights: {', '.join(own)}, or {IMAGENET}", own[0]), "", "as chosen")
    if own:
        return Weights(own[0], f"the file in {WEIGHTS}/ that fits {BACKBONE} 1.0")
    if cached(keras_home() / "models", side, exact=True):
        return Weights(IMAGENET, "Keras has downloaded them already")
    if file := cached(user_cache(), side):
        return Weights(str(file), "from the cache of Keras")
    if ask is None:
        return Weights(IMAGENET, NONE_FOUND)
    return checked(ask(f"Which weights: {IMAGENET} ({DOWNLOAD}), or the path of a file", IMAGENET), "", "as chosen")


def fits(path: Path) -> bool:
    """Return whether a file holds weights of the template's backbone, without a head, and of its width."""
    depthwise, dense = [0], 0

    def look(_: str, item: object) -> None:
        nonlocal dense
        if isinstance(item, h5py.Dataset):
            dense += len(item.shape) == 2
            if len(item.shape) == 4 and item.shape[0] > 1 == item.shape[3]:
                depthwise.append(item.shape[2])

    with suppress(OSError), h5py.File(path) as file:
        file.visititems(look)
    return not dense and max(depthwise) == WIDEST and backbone_of_weights(path) == BACKBONE


def user_cache() -> Path:
    """Return the folder in which Keras keeps its downloads when other programs of the user run it."""
    with suppress(RuntimeError):  # a user without a home folder
        return Path("~/.keras/models").expanduser()
    return Path("/nonexistent")


def cached(folder: Path, side: int, *, exact: bool = False) -> Path | None:
    """Return the file of Keras' weights in a folder for the input nearest to `side` pixels, or exactly so many."""
    names = [(match, path) for path in sorted(folder.glob("*.h5")) if (match := CACHED.fullmatch(path.name))]
    files = {path: abs(int(match[1]) - side) for match, path in names if fits(path)}
    best = min(files, key=files.__getitem__, default=None)
    return best if best and not (exact and files[best]) else None
