"""Summary of the predictions: counts, and the first of the bad files by name."""

from dataclasses import dataclass, field

from landuse.core.errors import printable

MAX_LISTED = 20


@dataclass
class Tally:
    """Counts of images. `first_bad` holds at most 20 lines, so memory stays flat."""

    images: int = 0
    unsure: int = 0
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)

    def count(self, path: str, *, unsure: bool, error: str | None) -> None:
        """Count one image."""
        self.images += 1
        self.unsure += unsure
        if error is not None:
            self.bad += 1
            if self.bad <= MAX_LISTED:
                self.first_bad.append(printable(f"{path}: {error}"))

    def __str__(self) -> str:
        """List the first bad files, and the counts in a last line."""
        more = [f"… and {self.bad - MAX_LISTED:,} more"] if self.bad > MAX_LISTED else []
        answered = self.images - self.bad
        summary = f"images {self.images:,}: answered {answered:,} (unsure {self.unsure:,}), bad {self.bad:,}"
        return "\n".join([*self.first_bad, *more, summary])
