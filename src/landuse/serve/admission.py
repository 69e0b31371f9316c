"""Admission control: large images share a pixel budget, so that they exhaust neither memory nor cores."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Semaphore

from landuse.core.errors import Unavailable
from landuse.ml.images import MAX_PIXELS, cores

SMALL_PIXELS = 2_000_000  # an image up to this size never waits for large ones
PIXEL_BUDGET = MAX_PIXELS  # for all large images in progress: decoding takes up to 21 bytes a pixel, so 1.05 GB
MAX_WAITING = 32  # large images; each occupies a thread
WAIT_SECONDS = 30
BUSY = "the server is busy with other large images; try again"
SHUTTING_DOWN = "the server is shutting down; try again"


class Admission:
    """Limits the images in progress across all requests: small ones by number, large ones by pixels as well.

    Raises Unavailable if too many large images wait, one has waited too long, or the server is shutting down.
    """

    def __init__(self) -> None:
        self.small_slots = Semaphore(cores() + 1)  # one more than interpreters: it is decoded while those run
        self.free_slots, self.free_pixels = cores(), PIXEL_BUDGET  # for large images
        self.changed = Condition()
        self.waiting: deque[object] = deque()
        self.closed = False

    @contextmanager
    def admit(self, pixels: int) -> Iterator[None]:
        """Hold the share of an image of this many pixels. Images above MAX_PIXELS are refused before decoding."""
        if SMALL_PIXELS < pixels <= MAX_PIXELS:
            self.acquire(pixels)
            try:
                yield
            finally:
                self.release(pixels)
        else:
            with self.small_slots:
                self.check_open()
                yield

    def acquire(self, pixels: int) -> None:
        """Queue for a share of the budget and take it, first come, first served."""
        ticket = object()
        with self.changed:
            if len(self.waiting) >= MAX_WAITING:
                raise Unavailable(BUSY)
            self.waiting.append(ticket)
            try:
                if not self.changed.wait_for(lambda: self.closed or self.is_next(ticket, pixels), WAIT_SECONDS):
                    raise Unavailable(BUSY)
                self.check_open()
                self.free_slots, self.free_pixels = self.free_slots - 1, self.free_pixels - pixels
            finally:
                self.waiting.remove(ticket)
                self.changed.notify_all()

    def is_next(self, ticket: object, pixels: int) -> bool:
        """Return whether the ticket is first in the queue and its image fits into the budget."""
        return self.waiting[0] is ticket and self.free_slots > 0 and self.free_pixels >= pixels

    def release(self, pixels: int) -> None:
        """Return a share to the budget."""
        with self.changed:
            self.free_slots, self.free_pixels = self.free_slots + 1, self.free_pixels + pixels
            self.changed.notify_all()

    def check_open(self) -> None:
        """Raise Unavailable if the server is shutting down."""
        if self.closed:
            raise Unavailable(SHUTTING_DOWN)

    def close(self) -> None:
        """Refuse all waiting and all further images."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
