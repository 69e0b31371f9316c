"""Admission control: large images wait for a budget of pixels, so that they take neither all memory nor every core."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Semaphore

from landuse.core.errors import Unavailable
from landuse.ml.images import MAX_PIXELS, cores

SMALL_PIXELS = 2_000_000  # up to here an image never waits for large ones
LARGE_PIXELS = MAX_PIXELS  # of all large images in work: at up to 21 bytes each while decoded and converted, 1.05 GB
MOST_WAITING = 32  # large images; each keeps a thread
WAIT_SECONDS = 30
BUSY = "the server is busy with other large images; try again"
ENDING = "the server is shutting down; try again"


class Admission:
    """Admits the images of all requests to memory and cores: small ones by number, large ones by their pixels too.

    Raises Unavailable where too many large images wait, or one has waited too long, or the server ends.
    """

    def __init__(self) -> None:
        self.small = Semaphore(cores() + 1)  # one more than there are interpreters: it is decoded while those work
        self.images, self.pixels = cores(), LARGE_PIXELS  # what is left for large ones
        self.changed = Condition()
        self.waiting: deque[object] = deque()
        self.closed = False

    @contextmanager
    def admit(self, pixels: int) -> Iterator[None]:
        """Hold the share of an image of so many pixels. Those above MAX_PIXELS are refused before they are decoded."""
        if SMALL_PIXELS < pixels <= MAX_PIXELS:
            self.acquire(pixels)
            try:
                yield
            finally:
                self.release(pixels)
        else:
            with self.small:
                self.refuse_if_closed()
                yield

    def acquire(self, pixels: int) -> None:
        """Wait in line for a share of the budget, and take it."""
        turn = object()
        with self.changed:
            if len(self.waiting) >= MOST_WAITING:
                raise Unavailable(BUSY)
            self.waiting.append(turn)
            try:
                if not self.changed.wait_for(lambda: self.closed or self.is_next(turn, pixels), WAIT_SECONDS):
                    raise Unavailable(BUSY)
                self.refuse_if_closed()
                self.images, self.pixels = self.images - 1, self.pixels - pixels
            finally:
                self.waiting.remove(turn)
                self.changed.notify_all()

    def is_next(self, turn: object, pixels: int) -> bool:
        """Whether it is the turn of an image, and there is room for it."""
        return self.waiting[0] is turn and self.images > 0 and self.pixels >= pixels

    def release(self, pixels: int) -> None:
        """Give a share back."""
        with self.changed:
            self.images, self.pixels = self.images + 1, self.pixels + pixels
            self.changed.notify_all()

    def refuse_if_closed(self) -> None:
        """Raise Unavailable once the server ends."""
        if self.closed:
            raise Unavailable(ENDING)

    def close(self) -> None:
        """Admit nothing more: what still waits is refused."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
