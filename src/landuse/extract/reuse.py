"""Choice of the features that are there already and can be reused."""

from collections.abc import Iterable
from dataclasses import dataclass

from landuse.extract.candidates import candidates, remove_damaged
from landuse.ml.shards import ROWS, Row, Shard

MOST_LOOSE = 16


@dataclass(frozen=True)
class Reuse:
    """The rows that are there already of the contents that are wanted.

    kept: shards to take over whole
    copied: rows to copy to new shards, by content
    damaged: the number of shards that cannot be used
    """

    kept: tuple[Shard, ...]
    copied: dict[str, Row]
    damaged: int


def find_reusable(key: str, contents: Iterable[str]) -> Reuse:
    """Find the rows of contents that were made under the same key.

    A shard is loose if it holds fewer wanted rows than half of what a full one does. More than 16 of these are not
    taken over, but their wanted rows are copied to new shards: neither small shards nor rows of images that left pile
    up.
    """
    missing, found, damaged = set(contents), dict[Shard, set[str]](), 0
    for shard in candidates(key):
        wanted = missing.intersection(shard.contents) if shard else set[str]()
        if shard is None or wanted and is_damaged(shard):
            damaged += 1
        elif wanted and shard.is_complete():
            found[shard] = wanted
            missing -= wanted
        if not missing:
            break
    loose = [shard for shard, wanted in found.items() if 2 * len(wanted) < ROWS]
    if len(loose) <= MOST_LOOSE:
        return Reuse(tuple(found), {}, damaged)
    copied = {row.content: row for shard in loose for row in shard.rows() if row.content in found[shard]}
    return Reuse(tuple(shard for shard in found if shard not in loose), copied, damaged)


def is_damaged(shard: Shard) -> bool:
    """Return True if files of a shard are damaged; these are removed."""
    damaged = shard.damaged_files()
    for path in damaged:
        remove_damaged(path)
    return bool(damaged)
