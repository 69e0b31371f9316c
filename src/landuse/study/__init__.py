"""Study: train several networks on the same images, split and recipe, and compare them on one page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Run

from landuse import tracking
from landuse.core.errors import Unavailable
from landuse.core.files import read_record
from landuse.core.paths import RUN, SERVICES, STUDY_PAGE, STUDY_TABLE
from landuse.core.process import exclusive_lock
from landuse.params import Params
from landuse.project import lineage
from landuse.study import results, runs
from landuse.study.networks import Network, refuse_unfit_weights, resolve_networks
from landuse.study.page import render
from landuse.study.stages import StudyCopy, study_copy

BUSY = "another landuse study is at work in this project: wait for it, or stop it"


def study(params: Params, register: bool, notify: Callable[[str], None]) -> str:
    """Train and compare the networks of `study.networks`; return a summary.

    Writes `artifacts/study.html` and `artifacts/study.csv`. The first network makes the split. What DVC's run cache
    holds is not done again. With `register`, each network becomes a version of the model. Raises LanduseError if a
    stage fails, or another `landuse study` is running.
    """
    networks = resolve_networks(params)
    refuse_unfit_weights(networks)
    done = list[results.NetworkResult]()
    with (
        told_if_stopped(done, networks, notify),
        exclusive_lock(SERVICES / "study.lock", BUSY),
        runs.study_run(networks) as parent,
        TemporaryDirectory() as folder,
        study_copy() as copy,
    ):
        for network in networks:
            notify(f"{len(done) + 1} of {len(networks)}: {network.name}")
            run = train_network(copy, network)
            runs.adopt(run, parent, network, networks[0])
            if register:
                copy.run(network, "--single-item", "--force", "register")
            done.append(results.read_result(network, run, copy.folder, Path(folder, str(len(done)))))
        images = [copy.folder / path for path in done[0].scored.images]
        latencies = results.measure((result.model for result in done), images, params.evaluate.latency_runs)
        rows = results.table(done, latencies)
        STUDY_TABLE.parent.mkdir(exist_ok=True)
        rows.to_csv(STUDY_TABLE, index=False)
        drawn = lineage.tags()["data.kind"] == "sample"
        STUDY_PAGE.write_text(render(rows, done, drawn), encoding="utf-8")
        runs.log_results(rows)
    return f"{STUDY_PAGE} compares {len(done)} networks on the same {len(images):,} images"


@contextmanager
def told_if_stopped(done: list[Any], networks: list[Network], notify: Callable[[str], None]) -> Iterator[None]:
    """Say how many networks are done if the study is stopped by Ctrl-C, SIGTERM or SIGHUP."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        notify(f"{len(done)} of {len(networks)} networks are done: the same command goes on from there")
        raise


def train_network(copy: StudyCopy, network: Network) -> Run:
    """Train a network in the copy; return its run. Raises Unavailable if somebody deletes that meanwhile."""
    copy.train(network)
    model_sha256 = read_record(copy.folder / RUN)["tags"][tracking.MODEL_TAG]
    if tracking.find_run(model_sha256) is None:  # trained with another store: the evaluation records it again
        copy.run(network, "--single-item", "--force", "evaluate")
    if run := tracking.find_run(model_sha256):
        return run
    raise Unavailable(f"{network.name}: its run was deleted meanwhile; the same command records it again")
