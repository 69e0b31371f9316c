"""Shards that are there already: of an extraction that was interrupted, and of earlier ones in DVC's cache.

Each function yields None in place of a shard whose index was damaged, and removed.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from shutil import rmtree

from landuse.core.errors import LanduseError
from landuse.core.paths import FEATURES
from landuse.ml.shards import ARRAYS, INDEX, Shard, read_shard, shard_files
from landuse.project.dvc_cache import cached_file, list_cached, read_cached
from landuse.project.earlier import earlier_outputs, is_from_scratch

UNFINISHED = FEATURES.with_name("features.part")  # shards of an extraction that has not ended
MOST_FOLDERS = 8  # earlier ones, of those made under the same key


def candidates(key: str) -> Iterator[Shard | None]:
    """Yield the shards made under this key, the latest first."""
    if not is_from_scratch():
        yield from unfinished_shards(key)
        folders = (shards for md5 in earlier_outputs(FEATURES) if (shards := earlier_shards(md5, key)))
        yield from chain.from_iterable(islice(folders, MOST_FOLDERS))


def unfinished_shards(key: str) -> list[Shard | None]:
    """Return what an extraction that was interrupted has finished. One under another key is removed."""
    indexes = sorted((UNFINISHED / INDEX).glob("*.json"))
    shards = [read_or_remove(index, shard_files(UNFINISHED, index.stem)) for index in indexes]
    if all(shard is None or shard.key == key for shard in shards):
        return shards
    rmtree(UNFINISHED, ignore_errors=True)
    return []


def earlier_shards(md5: str, key: str) -> list[Shard | None]:
    """Return the shards of an earlier features folder; none if they were made under another key."""
    files, shards = list_cached(md5) or {}, list[Shard | None]()
    for path in files:
        arrays = {array: files.get(f"{array}/{Path(path).stem}.npy") for array in ARRAYS}
        if path.startswith(f"{INDEX}/") and all(arrays.values()) and cached_file(files[path]).exists():
            shard = cached_shard(files[path], {array: cached_file(str(found)) for array, found in arrays.items()})
            if shard and shard.key != key:
                return []
            shards.append(shard)
    return shards


def cached_shard(md5: str, files: dict[str, Path]) -> Shard | None:
    """Return a shard whose index has this MD5 in DVC's cache."""
    if read_cached(md5) is None:
        remove_damaged(cached_file(md5))
        return None
    return read_or_remove(cached_file(md5), files)


def read_or_remove(index: Path, files: dict[str, Path]) -> Shard | None:
    """Read a shard, or remove its index if that is damaged."""
    try:
        return read_shard(index, files)
    except LanduseError:
        remove_damaged(index)
        return None


def remove_damaged(path: Path) -> None:
    """Remove a damaged file, which DVC would take for whole if it is in its cache, unless that is read-only."""
    with suppress(OSError):
        path.unlink()
