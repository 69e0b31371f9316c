"""Features that are there already: only rows of new contents are computed, and the result is that from scratch."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from shutil import copy, rmtree
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from dvc.repo import Repo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landuse import extract as extract_module
from landuse.core.errors import Unavailable
from landuse.core.files import sha256_of
from landuse.core.paths import DATA, FEATURES, MANIFEST, MODEL, PREDICTIONS, SPLITS
from landuse.evaluate import evaluate
from landuse.extract import Extraction, reuse
from landuse.extract.candidates import UNFINISHED
from landuse.ml import features, forward, network, shards
from landuse.ml.forward import make_forward_pass
from landuse.ml.image_features import ImageFeatures
from landuse.ml.image_file import ImageFile
from landuse.ml.pool import Pool
from landuse.params import ExtractParams, load_params
from landuse.project.earlier import FROM_SCRATCH
from landuse.split import split
from landuse.train import train
from landuse.validate.manifest import build_manifest, write_manifest

CUT = "head"
ROWS = 8
STAGES = {"stages": {"extract": {"cmd": "landuse extract", "outs": [str(FEATURES)]}}}


@cache
def loaded_backbone(params: ExtractParams) -> network.Network:
    """Build the backbone once for all tests, which takes seconds."""
    return network.build_backbone(params)


@cache
def converted(backbone: network.Network, cut: str, views: int, pool: Pool) -> forward.ForwardPass:
    """Convert the network once for all tests."""
    return make_forward_pass(backbone, cut, views, pool)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny project with DVC, in which shards have 8 rows, as the working directory."""
    tiny.make_project(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    site_cache_dir = .dvc/tmp/site\n")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(STAGES))
    monkeypatch.chdir(tmp_path)
    for module in (extract_module, reuse):
        monkeypatch.setattr(module, "ROWS", ROWS)
    monkeypatch.setattr(extract_module, "build_backbone", loaded_backbone)
    monkeypatch.setattr(extract_module, "make_forward_pass", converted)
    return tmp_path


def extract(cut: str = CUT, **changes: object) -> Extraction:
    """Extract the features of what is in data/, as DVC does: the outputs are removed before, and cached after."""
    MANIFEST.parent.mkdir(exist_ok=True)
    write_manifest(build_manifest(DATA), MANIFEST)
    rmtree(FEATURES, ignore_errors=True)
    extraction = extract_module.extract(replace(load_params().extract, **changes), cut)
    with Repo() as repo:
        repo.commit("extract", force=True)
    return extraction


def computed(cut: str = CUT, **changes: object) -> int:
    """Extract, and return for how many images features were computed."""
    return extract(cut, **changes).computed


def add_image(number: int, label: str = "forest") -> Path:
    """Add an image that is in no other test's data."""
    path = DATA / label / f"new-{number}.png"
    tiny.scene(label, 1000 + number).save(path)
    return path


def cached_arrays() -> set[str]:
    """Return the names of the files in DVC's cache that hold arrays."""
    objects = (path for path in Path(".dvc/cache/files/md5").glob("*/*") if not path.name.endswith(".dir"))
    return {path.name for path in objects if path.read_bytes().startswith(b"\x93NUMPY")}


def test_only_new_contents_are_computed(workplace: Path) -> None:
    assert str(extract()) == "features of 36 different images: 36 computed, 0 reused"
    for number in range(3):
        add_image(number)
    assert str(extract()) == "features of 39 different images: 3 computed, 36 reused"


def test_another_name_or_class_or_a_second_copy_of_an_image_costs_nothing(workplace: Path) -> None:
    extract()
    (DATA / "forest" / "00.png").rename(DATA / "water" / "moved.png")
    (DATA / "forest" / "01.png").rename(DATA / "forest" / "renamed.png")
    copy(DATA / "field" / "00.png", DATA / "field" / "again.png")
    assert computed() == 0


def test_the_cache_holds_unchanged_shards_once_and_grows_by_the_new_rows(workplace: Path) -> None:
    extract()
    before = cached_arrays()
    add_image(1)
    extract()
    assert len(before) == 10 and before < cached_arrays() and len(cached_arrays()) == 12


def test_rows_of_images_that_left_stay_and_are_used_when_these_come_back(workplace: Path) -> None:
    extract()
    before = cached_arrays()
    away = (DATA / "field" / "03.png").rename("away.png")
    assert computed() == 0 and cached_arrays() == before
    away.rename(DATA / "field" / "03.png")
    assert computed() == 0


def test_many_small_shards_are_merged_without_computing_anything(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "MOST_LOOSE", 3)
    extract()  # four full shards, and one that is half full
    for number in range(5):
        add_image(number)
        assert computed() == 1
    counts = [len(shard.contents) for shard in shards.read_shards(FEATURES)]
    assert sorted(counts) == [4, 5, 8, 8, 8, 8]
    assert_as_from_scratch(monkeypatch)


def test_features_of_another_origin_are_not_reused(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"device": "CPU", "code": "1", "keras": "3", "numpy": "2"}
    monkeypatch.setattr(extract_module, "forward_origin", lambda: origin)
    assert (computed(), computed()) == (36, 0)
    for key in origin:
        monkeypatch.setattr(extract_module, "forward_origin", partial(dict, origin, **{key: "other"}))
        assert computed() == 36, key


@pytest.mark.parametrize("name", [f"ml/{name}.py" for name in forward.CODE] + ["params/backbones.py"])
def test_every_module_of_the_forward_pass_belongs_to_its_origin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = forward.forward_origin(), Path.read_bytes
    changed = lambda path: read(path) + (b"#" if str(path).endswith(name) else b"")  # noqa: E731
    monkeypatch.setattr(Path, "read_bytes", changed)
    assert forward.forward_origin()["code"] != before["code"]


CHANGES: list[tuple[str, dict[str, object]]] = [
    ("head", {"weights": "none"}),
    ("head", {"image_size": 96}),
    ("head", {"views": 2}),
    ("block_16", {}),
]


@pytest.mark.parametrize(("cut", "changes"), CHANGES)
def test_features_of_other_weights_size_views_or_cut_are_not_reused(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, cut: str, changes: dict[str, object]
) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", lambda *_: zeros)
    assert (computed(), computed(cut, **changes), computed(cut, **changes)) == (36, 36, 0)


def zeros(paths: list[ImageFile]) -> Iterator[ImageFeatures]:
    """Return features in no time, for tests that only count."""
    for _ in paths:
        yield np.zeros(4, np.float32), np.zeros((1, 4), np.float32)


def test_weights_under_another_name_are_the_same_weights(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", lambda *_: zeros)
    assert computed() == 36
    copy(tiny.WEIGHTS, "other.weights.h5")
    assert computed(weights=str(Path("other.weights.h5").resolve())) == 0


def test_a_damaged_shard_in_the_cache_is_made_again_and_told(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract()
    path = next(path for path in Path(".dvc/cache/files/md5").glob("*/*") if path.name in cached_arrays())
    os.chmod(path, 0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    add_image(1)
    extraction = extract()
    assert 5 <= extraction.computed <= 9
    assert str(extraction).endswith("reused; damaged shards made again: 1")
    assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name, "DVC took it for whole"
    assert_as_from_scratch(monkeypatch)


@pytest.mark.parametrize("kept", [0, 40])
def test_a_damaged_index_in_the_cache_only_costs_its_rows(workplace: Path, kept: int) -> None:
    extract()
    path = next(path for path in Path(".dvc/cache/files/md5").glob("*/*") if path.read_bytes().startswith(b'{"key"'))
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes()[:kept])
    extraction = extract()
    assert extraction.computed in (4, 8) and str(extraction).endswith("; damaged shards made again: 1")


def test_a_damaged_index_of_an_unfinished_extraction_only_costs_its_rows(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", interrupt_after(33))
    with pytest.raises(KeyboardInterrupt):
        extract()
    one, other, *_ = (UNFINISHED / "index").iterdir()
    one.write_text('{"key": "x", "contents": 3, "digests": {}}')
    other.write_text("{")
    monkeypatch.setattr(extract_module, "make_forward_pass", converted)
    extraction = extract()
    assert (extraction.computed, extraction.damaged) == (36 - 16, 2)


def test_an_image_that_changed_since_the_manifest_was_made_gets_no_features(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = extract_module.write_shards

    def write_later(*arguments: object) -> None:
        copy(DATA / "water" / "01.png", DATA / "water" / "00.png")
        write(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Unavailable) as caught:
        patch.setattr(extract_module, "write_shards", write_later)
        extract()
    assert str(caught.value).startswith("data/water/00.png was changed since artifacts/manifest.parquet was made: dvc")
    tiny.scene("water", 0).save(DATA / "water" / "00.png")
    assert computed() == 36 - 24
    assert_as_from_scratch(monkeypatch)


def test_many_other_params_in_between_hide_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", lambda *_: zeros)
    locks = []
    for size in range(32, 32 * 12, 32):
        computed(image_size=size)
        locks.append(Path("dvc.lock").read_text())
    for number, lock in enumerate(locks):
        path = Path(".dvc/cache/runs/aa", f"{number:02}", "run")
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(yaml.safe_load(lock)["stages"]["extract"]))
    assert computed(image_size=32) == 0


def test_without_a_cache_everything_is_computed(workplace: Path) -> None:
    extract()
    rmtree(".dvc/cache")
    assert computed() == 36


def test_what_is_to_be_made_from_scratch_reuses_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract()
    add_image(1)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(extract_module, "make_forward_pass", interrupt_after(1))
        extract()
    monkeypatch.setenv(FROM_SCRATCH, "1")
    assert computed() == 37


def test_the_disk_needs_room_for_the_new_rows_only(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract()
    monkeypatch.setattr(extract_module, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    add_image(1)
    assert computed() == 1


def interrupt_after(images: int) -> Callable[..., forward.ForwardPass]:
    """Return a replacement of `make_forward_pass` whose result fails after some images."""

    def make(*arguments: object) -> forward.ForwardPass:
        def run(paths: list[ImageFile]) -> Iterator[ImageFeatures]:
            yield from converted(*arguments)(paths[:images])
            raise KeyboardInterrupt

        return run

    return make


def test_an_interrupted_extraction_goes_on_after_its_last_complete_shard(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", interrupt_after(21))
    with pytest.raises(KeyboardInterrupt):
        extract()
    monkeypatch.setattr(extract_module, "make_forward_pass", converted)
    assert computed() == 36 - 16 and not UNFINISHED.exists()
    assert_as_from_scratch(monkeypatch)


def test_what_another_network_left_unfinished_is_removed(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_module, "make_forward_pass", interrupt_after(21))
    with pytest.raises(KeyboardInterrupt):
        extract()
    monkeypatch.setattr(extract_module, "make_forward_pass", converted)
    assert computed(views=2) == 36 and not UNFINISHED.exists()


def assert_as_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that the features are those that an extraction from nothing makes, bit for bit."""
    updated = [features.embeddings()[:], features.activations()[:]]
    with monkeypatch.context() as patch:
        patch.setenv(FROM_SCRATCH, "1")
        assert computed() == pd.read_parquet(MANIFEST)["sha256"].nunique()
    for array, again in zip(updated, [features.embeddings()[:], features.activations()[:]], strict=True):
        assert array.tobytes() == again.tobytes() and array.shape == again.shape


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 30)),
        st.tuples(st.just("relabel"), st.integers(0, 30)),
        st.tuples(st.just("interrupt"), st.integers(0, 9)),
        st.tuples(st.just("extract"), st.just(0)),
    ),
    min_size=2,
    max_size=6,
)


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_changes_gives_the_features_from_scratch(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    take(steps, workplace, monkeypatch)
    assert_as_from_scratch(monkeypatch)


@pytest.mark.slow
@given(steps=STEPS)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_changes_gives_split_model_and_predictions_from_scratch(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    take(steps, workplace, monkeypatch)
    updated = outcome()
    assert_as_from_scratch(monkeypatch)
    assert outcome() == updated


def take(steps: list[tuple[str, int]], workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extract the images of a new project, then again after some changes."""
    monkeypatch.setattr(reuse, "MOST_LOOSE", 2)
    for place in (DATA, Path(".dvc/cache"), FEATURES, UNFINISHED):
        rmtree(place, ignore_errors=True)
    tiny.make_images(workplace)
    extract()
    for step, number in steps:
        change(step, number, monkeypatch)
    extract()


def outcome() -> dict[str, str]:
    """Split, train and evaluate with the features that are there; return the sha256 of split, model and predictions."""
    params = load_params()
    keras.utils.clear_session()  # number layers from 1, as in a new process
    split(params.split)
    train(params.train)
    evaluate(params.evaluate)
    files = [SPLITS, PREDICTIONS, *(path for path in sorted(MODEL.iterdir()) if path.suffix in (".keras", ".tflite"))]
    return {path.name: sha256_of(path) for path in files}


def change(step: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of the STEPS."""
    images = sorted(DATA.glob("*/*.png"))
    if step == "add":
        add_image(number)
    elif step == "remove":
        images[number % len(images)].unlink()
    elif step == "relabel":
        image = images[number % len(images)]
        image.rename(DATA / "water" / f"from-{image.parent.name}-{image.name}")
    elif step == "extract":
        extract()
    else:
        add_image(100 + number)
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):  # unless there is nothing to compute
            patch.setattr(extract_module, "make_forward_pass", interrupt_after(number))
            extract()
