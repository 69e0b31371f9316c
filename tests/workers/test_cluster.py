"""Work on images by Dask workers: the same results whatever happens to them, or one clear line."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from time import sleep

import dask
import distributed
import pytest
from dask_cluster import Workers, running_workers, worker_of
from worker_tasks import Call, die, modules, process_of, size_of, slowly, stop_first

from landuse import extract as extract_module
from landuse.compute import VARIABLE, cluster, job, open_pool, scheduler
from landuse.compute.worker import start_workers
from landuse.core.errors import LanduseError, Unavailable
from landuse.core.files import sha256_of
from landuse.core.paths import FEATURES, MODEL
from landuse.extract import Extraction, extract
from landuse.ml.image_file import ImageFile
from landuse.ml.pool import THIS_PROCESS, Pool
from landuse.params import ComputeParams, load_params
from landuse.predict import predict
from landuse.project.earlier import FROM_SCRATCH
from landuse.validate.manifest import build_manifest

UNWANTED = {"tensorflow", "keras", "mlflow", "dvc", "prefect", "great_expectations", "pandas"}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A scheduler with two workers."""
    with running_workers(tmp_path_factory.mktemp("workers"), 2) as running:
        yield running


@pytest.fixture
def own_workers(tmp_path: Path) -> Iterator[Workers]:
    """A scheduler with two workers that a test may kill."""
    (folder := tmp_path / "cluster").mkdir()
    with running_workers(folder, 2) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    """Many small files."""
    (folder := tmp_path / "files").mkdir()
    paths = [folder / f"{number:04}.png" for number in range(600)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
    return [ImageFile(Path(path.name), str(path)) for path in paths]


def compute_params(workers: Workers, images: str = "folder") -> ComputeParams:
    return ComputeParams(address=workers.address, images=images)


def run(workers: Workers, task: Call, files: list[ImageFile]) -> list:
    """Return the results of a task by the workers."""
    with open_pool(compute_params(workers), print) as pool:
        return list(pool.map(task, files))


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def extracted(pool: Pool) -> dict[str, str]:
    """Extract all features anew; return the digests of the files but the backbone's, which numbers its layers."""
    params = load_params()
    rmtree(FEATURES)
    assert extract(params.extract, params.train.unfreeze_from, pool) == Extraction(36, 36, 0)
    return {name: digest for name, digest in digests(FEATURES).items() if not name.endswith(".h5")}


def test_features_manifest_and_predictions_are_those_of_one_process(
    workers: Workers, trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BATCH", 5)
    monkeypatch.setenv(FROM_SCRATCH, "1")
    expected, manifest = extracted(THIS_PROCESS), build_manifest(Path("data"))
    predict(["data"], str(MODEL), Path("here.jsonl"))
    with open_pool(compute_params(workers), print) as pool:
        assert extracted(pool) == expected
        assert build_manifest(Path("data"), pool=pool).equals(manifest)
        known = manifest.iloc[:20].drop_duplicates("sha256").set_index("sha256")
        assert build_manifest(Path("data"), known, pool).equals(manifest)
        predict(["data"], str(MODEL), Path("there.jsonl"), pool=pool)
        assert pool.processors == THIS_PROCESS.processors
    there, here = (sorted(Path(name).read_text().splitlines()) for name in ("there.jsonl", "here.jsonl"))
    assert there == here


def test_both_workers_work_and_import_only_what_they_need(workers: Workers, files: list[ImageFile]) -> None:
    assert len(set(run(workers, Call(process_of), files))) == 2
    imported = set().union(*run(workers, Call(modules), files))
    assert imported.isdisjoint(UNWANTED) and {"numpy", "PIL"} <= imported


def test_results_come_in_order_and_memory_does_not_grow_with_them(workers: Workers, files: list[ImageFile]) -> None:
    sent = []
    with open_pool(compute_params(workers), print) as pool:
        results = pool.map(Call(size_of), (sent.append(file) or file for file in files * 5))
        assert next(results) == 0 and len(sent) < 600
        assert list(results) == [*range(1, 600), *[*range(600)] * 4]
        assert list(pool.map(Call(size_of), [])) == []


def test_workers_listen_only_where_the_scheduler_is(workers: Workers) -> None:
    nannies = [worker_of(process).parent() for process in workers.started[1:]]
    processes = [*nannies, *map(worker_of, workers.started[1:])]
    entries = [entry for process in processes for entry in process.net_connections()]
    assert {entry.laddr.ip for entry in entries if entry.status == "LISTEN"} == {"127.0.0.1"}


def test_an_image_that_cannot_be_read_is_named(workers: Workers, trained_copy: Path) -> None:
    params = load_params()
    min(Path("data").glob("*/*.png")).unlink()
    rmtree(FEATURES)
    with (
        open_pool(compute_params(workers), print) as pool,
        pytest.raises(LanduseError, match=r"^data/\w+/\d+\.png cannot be read: "),
    ):
        extract(params.extract, params.train.unfreeze_from, pool)


@pytest.mark.slow
def test_killed_workers_cost_their_batches_and_not_the_work(own_workers: Workers, files: list[ImageFile]) -> None:
    ended = threading.Event()

    def kill() -> None:
        for nanny in own_workers.started[1:] * 3:
            sleep(0.4)
            worker_of(nanny).kill()
        ended.set()

    threading.Thread(target=kill).start()
    with open_pool(compute_params(own_workers), print) as pool:
        expected, results = [*range(600)] * 5, list(pool.map(Call(slowly), files * 5))
    assert results == expected and ended.wait(20)


@pytest.mark.slow
def test_a_killed_nanny_leaves_the_work_to_the_other_worker(own_workers: Workers, files: list[ImageFile]) -> None:
    with open_pool(compute_params(own_workers), print) as pool:
        results = pool.map(Call(slowly), files)
        first = next(results)
        os.killpg(own_workers.started[1].pid, signal.SIGKILL)
        assert [first, *results] == [*range(600)]


@pytest.mark.slow
def test_a_worker_that_hangs_is_restarted(
    own_workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BATCH_SECONDS", 4)
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 3)
    assert run(own_workers, Call(stop_first), files) == [*range(600)]
    assert files and Path(files[0].location).with_name("stopped").exists()


@pytest.mark.slow
def test_a_worker_that_hung_before_does_not_keep_the_others_from_working(
    own_workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
    monkeypatch.setattr(cluster, "BATCH_SECONDS", 4)
    monkeypatch.setattr(cluster, "SILENT_SECONDS", 3)
    worker_of(own_workers.started[1]).suspend()
    assert run(own_workers, Call(size_of), files) == [*range(600)]


@pytest.mark.slow
def test_a_batch_that_kills_every_worker_is_named(own_workers: Workers, files: list[ImageFile]) -> None:
    with pytest.raises(LanduseError, match=r"0000\.png … 0063\.png had workers that died, .* want of memory"):
        run(own_workers, Call(die), files)


@pytest.mark.slow
def test_without_the_scheduler_what_is_done_is_kept_and_the_same_command_goes_on(
    own_workers: Workers, trained_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    monkeypatch.setattr(extract_module, "ROWS", 8)
    monkeypatch.setattr(cluster, "BATCH", 8)
    monkeypatch.setattr(extract_module, "track", kill_after(20, own_workers.started[0]))
    params = load_params()
    rmtree(FEATURES)
    gone = f"the Dask scheduler at {own_workers.address} is gone, .* start them again; .* the same command goes on"
    with pytest.raises(Unavailable, match=gone), open_pool(compute_params(own_workers), print) as pool:
        extract(params.extract, params.train.unfreeze_from, pool)
    for worker in own_workers.started[1:]:
        assert worker.wait(60) is not None, "it ends when the scheduler does"
    own_workers.start_scheduler()
    own_workers.start_worker()
    with open_pool(compute_params(own_workers), print) as pool:
        done = extract(params.extract, params.train.unfreeze_from, pool)
    assert done.images == 36 and done.computed <= 36 - 16


@pytest.mark.slow
def test_without_any_worker_the_work_is_given_up_soon(
    own_workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 5)
    with open_pool(compute_params(own_workers), print) as pool:
        results = pool.map(Call(slowly), files)
        assert next(results) == 0
        for nanny in own_workers.started[1:]:
            os.killpg(nanny.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="no worker is at .*: landuse worker tcp://.* starts one"):
            list(results)


def kill_after(images: int, process: subprocess.Popen) -> object:
    """Return a replacement of `track` that kills a process after some images."""

    def track(items: Iterator, *_: object) -> Iterator:
        for number, item in enumerate(items):
            if number == images:
                process.kill()
                process.wait()
            yield item

    return track


def test_an_address_that_nobody_listens_at_is_refused_once_there_is_work(
    files: list[ImageFile], tmp_path: Path
) -> None:
    nobody = Workers(tmp_path)
    assert run(nobody, Call(size_of), []) == []
    gone = rf"compute.address = {nobody.address}: no Dask scheduler of version \S+ answers there \(.*refused\): start"
    with pytest.raises(Unavailable, match=gone):
        run(nobody, Call(size_of), files)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match=rf"ADDRESS = {address}: no Dask .* \(no answer in 1 s\): start one"):
            start_workers(address, None)


def test_certificates_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(LanduseError, match=r"tls://127.0.0.1:1: name certificates in .*CA_FILE, …__WORKER__CERT and"):
        start_workers("tls://127.0.0.1:1", None)
    files = dict.fromkeys(("ca-file", "worker.cert", "worker.key"), str(tmp_path / "gone.pem"))
    settings = {f"distributed.comm.tls.{name}": path for name, path in files.items()}
    gone = r"a file in .*CA_FILE, …__WORKER__CERT and …__WORKER__KEY is no certificate or key \(.*No such file"
    with dask.config.set(settings), pytest.raises(LanduseError, match=gone):
        start_workers("tls://127.0.0.1:1", None)


@pytest.mark.parametrize("bad", ["127.0.0.1:8786", "localhost", "tcp://127.0.0.1:99999", "tcp://:1"])
def test_the_variable_goes_before_the_params_and_is_checked(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, bad)
    with pytest.raises(LanduseError, match=rf"LANDUSE_DASK = {re.escape(bad)}: not an address such as tcp://"):
        open_pool(ComputeParams(address=None, images="folder"), print).__enter__()
    with pytest.raises(LanduseError, match=rf"ADDRESS = {re.escape(bad)}: not an address such as tcp://"):
        start_workers(bad, None)


@pytest.mark.parametrize("address", ["ada:s3cret@127.0.0.1:8786", "tcp://ada:s3cret@127.0.0.1:8786"])
def test_a_login_in_an_address_is_refused_and_not_repeated(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, address)
    with pytest.raises(LanduseError) as refusal:
        open_pool(ComputeParams(address=None, images="folder"), print).__enter__()
    assert str(refusal.value) == "LANDUSE_DASK has a login, which Dask does not know: write tcp://127.0.0.1:8786"


def test_a_scheduler_without_workers_is_told(
    tmp_path: Path, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WORKER_SECONDS", 1)
    with (
        running_workers(tmp_path, 0) as alone,
        pytest.raises(Unavailable, match="no worker is at .* landuse worker tcp"),
    ):
        run(alone, Call(size_of), files)


def test_a_scheduler_of_another_version_is_refused(
    workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "version", lambda _: "2026.7.0")
    with pytest.raises(
        LanduseError, match=r"the scheduler has distributed \d.*, here it is 2026.7.0: install the same"
    ):
        run(workers, Call(size_of), files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numpy": "1.0"}, r"worker tcp://\S+ has numpy \d.*, not 1\.0: install there the commit"),
        ({"code": "other"}, r"worker tcp://\S+ has another version of landuse's code: install there"),
    ],
)
def test_a_worker_with_other_versions_is_refused(
    workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    mine = job.made_with() | change
    monkeypatch.setattr(job, "made_with", lambda: mine)
    with pytest.raises(LanduseError, match=message):
        run(workers, Call(size_of), files)


@pytest.mark.slow
def test_a_worker_without_the_package_is_told(tmp_path: Path, files: list[ImageFile]) -> None:
    (folder := tmp_path / "packages").mkdir()
    for path in Path(distributed.__file__).parents[1].iterdir():
        if "landuse" not in path.name:
            (folder / path.name).symlink_to(path)
    command = (sys.executable, "-S", "-m", "distributed.cli.dask_worker", "--no-nanny", "--host=127.0.0.1")
    with running_workers(tmp_path, 0) as alone:
        alone.start(*command, "--dashboard-address=127.0.0.1:0", alone.address, PYTHONPATH=str(folder))
        with pytest.raises(LanduseError, match=r"worker tcp://\S+ has no landuse: .* requirements/worker.txt"):
            run(alone, Call(size_of), files)


def test_a_worker_that_sees_another_file_is_refused(
    workers: Workers, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = files[300]
    monkeypatch.setattr(cluster, "look_at", lambda image: (299, 0) if image == odd else job.look_at(image))
    with pytest.raises(LanduseError, match=r"0300\.png: worker tcp://\S+ has another file than .* compute.images"):
        run(workers, Call(size_of), files)
    files[300] = odd = odd._replace(location=str(Path(odd.location).with_name("gone.png")))
    with pytest.raises(LanduseError, match=r"gone\.png: worker tcp://\S+ cannot read it \(No such file .* same path"):
        run(workers, Call(size_of), files)


def test_images_that_nobody_can_read_are_results_like_others(workers: Workers, trained_copy: Path) -> None:
    for path in Path("data").glob("*/*.png"):
        path.unlink()
        path.mkdir()
    with open_pool(compute_params(workers), print) as pool:
        manifest = build_manifest(Path("data"), pool=pool)
    assert {*manifest["reason"]} == {"the file cannot be read: Is a directory"}
