"""Which features are there already: in an extraction that was interrupted, or in earlier ones in DVC's cache."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree

from landuse.core.errors import LanduseError
from landuse.core.paths import FEATURES
from landuse.ml.shards import ARRAYS, INDEX, ROWS, Row, Shard, read_shards
from landuse.project.dvc_cache import cached_file, list_cached, read_cached
from landuse.project.earlier import earlier_outputs

UNFINISHED = FEATURES.with_name("features.part")  # shards of an extraction that has not ended
MOST_LOOSE = 16


@dataclass(frozen=True)
class Reuse:
    """What is there already of the contents that are wanted.

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
        wanted = missing.intersection(shard.contents)
        if wanted and remove_damaged(shard):
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


def remove_damaged(shard: Shard) -> bool:
    """Remove damaged files of a shard; return True if there were any. DVC would take those in its cache for whole."""
    damaged = shard.damaged_files()
    for path in damaged:
        path.unlink()
    return bool(damaged)


def candidates(key: str) -> Iterator[Shard]:
    """Yield shards made under this key: of an unfinished extraction, then of earlier ones."""
    yield from unfinished_shards(key)
    for md5 in earlier_outputs(FEATURES):
        yield from (shard for shard in cached_shards(md5) if shard.key == key)


def unfinished_shards(key: str) -> list[Shard]:
    """Return what an extraction that was interrupted has finished. One under another key is removed."""
    try:
        shards = read_shards(UNFINISHED)
    except LanduseError:
        shards = []
    if any(shard.key != key for shard in shards):
        shards = []
    if not shards:
        rmtree(UNFINISHED, ignore_errors=True)
    return shards


def cached_shards(md5: str) -> Iterator[Shard]:
    """Yield the shards of an earlier features folder, as far as DVC's cache has their index."""
    files = list_cached(md5) or {}
    for path in files:
        if path.startswith(f"{INDEX}/") and (content := read_cached(files[path])) is not None:
            record, name = json.loads(content), Path(path).stem
            arrays = {array: cached_file(files[f"{array}/{name}.npy"]) for array in ARRAYS}
            yield Shard(record["key"], tuple(record["contents"]), record["digests"], arrays)
