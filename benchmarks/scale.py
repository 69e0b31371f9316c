"""Measure work by Dask workers beside that of one process: CPU seconds, wall seconds, kills, and memory.

    LANDUSE_SOURCE=UCMerced_LandUse.zip LANDUSE_WEIGHTS=weights.h5 python benchmarks/scale.py

The real images with eight views are extracted by one process, by one worker and by two, with a core each; then by two
of which one is killed every few seconds. With `--images 134400`, also the memory of a worker over that many made-up
images. Needs two cores. Exit code 1 if results differ, or a limit is exceeded.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from shutil import rmtree
from socket import create_connection
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter, sleep

import psutil
from many_images import CHANGES, write_images
from real_job import environment, fresh_clone, write_params

PORT, DASHBOARD = 28786, 28787
ADDRESS = f"tcp://127.0.0.1:{PORT}"
KILLS, KILL_SECONDS = 20, 2.0
MOST_CPU, LEAST_SPEEDUP, MOST_KILLED_TIME, MOST_MEMORY = 1.10, 1.85, 1.5, 350


@dataclass(frozen=True)
class Cost:
    """Wall seconds, those from a tenth of the images to the end, CPU seconds, and a worker's peak in MB at both."""

    wall: float
    work: float
    cpu: float
    early: float
    memory: float

    def __str__(self) -> str:
        memory = f", {self.memory:4.0f} MB a worker ({self.early:.0f} MB at a tenth)" if self.memory else ""
        return f"{self.wall:7.1f} s, {self.work:7.1f} s from a tenth to the end, {self.cpu:7.1f} s of CPU{memory}"


class Cluster:
    """A scheduler, and workers that have a core each."""

    def __init__(self, clone: Path, workers: int) -> None:
        self.clone, self.number = clone, workers

    def __enter__(self) -> "Cluster":
        hosts = ("--host", "127.0.0.1", "--dashboard-address", f"127.0.0.1:{DASHBOARD}")
        self.scheduler = self.start("dask", "scheduler", *hosts, "--port", str(PORT))
        wait_for_port()
        self.nannies = [self.start_worker(core) for core in range(self.number)]
        self.peak, self.spent, self.ended = 0.0, 0.0, Event()
        sleep(8)
        self.watcher = Thread(target=self.watch)
        self.watcher.start()
        return self

    def start(self, *command: str) -> psutil.Popen:
        """Start a process."""
        env, silent = environment(self.clone), subprocess.DEVNULL
        return psutil.Popen(command, cwd=self.clone, env=env, stdout=silent, stderr=silent)

    def start_worker(self, core: int) -> psutil.Popen:
        """Start a worker on a core of its own."""
        return self.start("taskset", "--cpu-list", str(core), "landuse", "worker", ADDRESS, "--workers", "1")

    def workers(self) -> list[psutil.Process]:
        """Return the processes of the workers."""
        found = []
        for nanny in self.nannies:
            with suppress(psutil.NoSuchProcess):
                found += [child for child in nanny.children(recursive=True) if "spawn_main" in "".join(child.cmdline())]
        return found

    def cpu(self) -> float:
        """Return the CPU seconds of scheduler, nannies and workers that run now."""
        total = 0.0
        for process in (self.scheduler, *self.nannies, *self.workers()):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:2])
        return total

    def watch(self) -> None:
        """Note the peak memory of any worker until the end."""
        while not self.ended.wait(0.5):
            for process in self.workers():
                with suppress(psutil.NoSuchProcess):
                    self.peak = max(self.peak, process.memory_info().rss / 1e6)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.watcher.join()
        for process in (*self.nannies, self.scheduler):
            process.terminate()
            process.wait(60)


def wait_for_port() -> None:
    """Wait until the scheduler listens, which workers look for when they start."""
    while True:
        with suppress(ConnectionRefusedError), create_connection(("127.0.0.1", PORT)):
            return
        sleep(0.2)


def extract(clone: Path, cluster: Cluster | None) -> tuple[Cost, str]:
    """Extract all features from nothing; return the cost and a digest of the files."""
    features = clone / "artifacts/features"
    rmtree(features, ignore_errors=True)
    env = environment(clone) | {"LANDUSE_FROM_SCRATCH": "1"} | ({"LANDUSE_DASK": ADDRESS} if cluster else {})
    before, start = cluster.cpu() if cluster else 0.0, perf_counter()
    process = subprocess.Popen(["landuse", "extract"], cwd=clone, env=env, stdout=subprocess.PIPE, text=True)
    tenths = [
        (perf_counter(), cluster.peak if cluster else 0.0) for line in process.stdout if line.startswith("extract ")
    ]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("landuse extract failed")
    (first, early), (last, peak) = tenths[0], tenths[-1]
    cpu = usage.ru_utime + usage.ru_stime + (cluster.cpu() if cluster else 0.0) - before
    return Cost(perf_counter() - start, last - first, cpu, early, peak), digest(features)


def digest(folder: Path) -> str:
    """Return the sha256 of names and contents of the files in a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@contextmanager
def killing(cluster: Cluster) -> Iterator[list[int]]:
    """Kill a random worker every few seconds; yields the list of those killed."""
    killed, ended = list[int](), Event()

    def kill() -> None:
        while len(killed) < KILLS and not ended.wait(KILL_SECONDS):
            if workers := cluster.workers():
                victim = random.choice(workers)
                victim.kill()
                killed.append(victim.pid)

    thread = Thread(target=kill)
    thread.start()
    yield killed
    ended.set()
    thread.join()


def compare(clone: Path) -> list[str]:
    """Extract in each way, print the costs, and return which limits are exceeded."""
    here, expected = extract(clone, None)
    print(f"one process, two threads {here}", flush=True)
    costs = {}
    for workers in (1, 2):
        with Cluster(clone, workers) as cluster:
            costs[workers], found = extract(clone, cluster)
        print(f"{workers} worker{'s' * (workers > 1):<16} {costs[workers]}  same: {found == expected}", flush=True)
        expected = expected if found == expected else "differs"
    with Cluster(clone, 2) as cluster, killing(cluster) as killed:
        disturbed, found = extract(clone, cluster)
    print(f"2 workers, {len(killed)} kills     {disturbed.wall:7.1f} s  same: {found == expected}", flush=True)
    ratios = {
        f"CPU seconds of two workers over one process ≤ {MOST_CPU}": (costs[2].cpu / here.cpu, MOST_CPU),
        f"wall seconds with kills over those without ≤ {MOST_KILLED_TIME}": (
            disturbed.wall / costs[2].wall,
            MOST_KILLED_TIME,
        ),
        f"memory of a worker in MB < {MOST_MEMORY}": (costs[2].memory, MOST_MEMORY),
        f"1 / speed-up by the second worker ≤ 1 / {LEAST_SPEEDUP}": (
            costs[2].wall / costs[1].wall,
            1 / LEAST_SPEEDUP,
        ),
        "the same without imports and conversion": (costs[2].work / costs[1].work, inf),
        "results that differ": (float(found != expected), 0),
    }
    for name, (value, _) in ratios.items():
        print(f"{name}: {value:.3f}")
    return [name for name, (value, limit) in ratios.items() if value > limit]


def measure_memory(images: int) -> list[str]:
    """Extract many made-up images by two workers; print their memory, and return whether that is too much."""
    with TemporaryDirectory() as folder, fresh_clone() as clone:
        write_images(Path(folder, "many"), range(images))
        write_params(clone, "sample", **CHANGES)
        subprocess.run(["landuse", "ingest", f"{folder}/many"], cwd=clone, env=environment(clone), check=True)
        with Cluster(clone, 2) as cluster:
            cost, _ = extract(clone, cluster)
    print(f"{images:,} images by 2 workers {cost}", flush=True)
    return [f"{cost.memory:.0f} MB a worker"] if cost.memory > MOST_MEMORY else []


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="made-up images for the memory of workers")
    args = parser.parse_args()
    with fresh_clone() as clone:
        write_params(clone, "ucmerced")
        subprocess.run(["landuse", "ingest"], cwd=clone, env=environment(clone), check=True)
        exceeded = compare(clone)
    exceeded += measure_memory(args.images) if args.images else []
    if exceeded:
        sys.exit(f"exceeded: {'; '.join(exceeded)}")


if __name__ == "__main__":
    main()
