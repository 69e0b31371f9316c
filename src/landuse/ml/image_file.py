"""An image as a piece of work that this process does, or a worker on another machine."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from landuse.core.errors import LanduseError, Unavailable, one_line
from landuse.core.paths import MANIFEST

REMOTE = "://"  # in a location that is an address


class ImageFile(NamedTuple):
    """An image file.

    path: relative to the project, or as the user named it; messages call the image by it
    location: path or address from which it is read, wherever that is done
    sha256: the content that it must have; empty if that is not known yet
    """

    path: Path
    location: str
    sha256: str = ""

    def read(self) -> bytes:
        """Return its content.

        Raises OSError for a file that cannot be read, LanduseError for an address that cannot, and Unavailable if it
        has another content than it must have.
        """
        content = read_address(self.location) if REMOTE in self.location else Path(self.location).read_bytes()
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise Unavailable(f"{self.path} was changed since {MANIFEST} was made: dvc repro makes both anew")
        return content


def read_address(address: str) -> bytes:
    """Return what an address of an object store holds. Raises LanduseError if it cannot be read."""
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            content: bytes = file.read()
    except Exception as error:  # each kind of store raises its own
        raise LanduseError(
            f"{address} cannot be read: {one_line(error)}; push what is missing by dvc push, and give workers the "
            "address and login of the store (AWS_ENDPOINT_URL and other AWS_… variables)"
        ) from None
    return content
