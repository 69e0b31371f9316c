"""The command line `landuse`. Each verb imports what it needs, so that help is instant."""

import atexit
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.core.environment import restrict_permissions, sanitize_environment
from landuse.core.errors import LanduseError, printable, report_errors
from landuse.core.paths import PARAMS
from landuse.core.reexec import reexec_from_working_tree
from landuse.core.streams import open_closed_streams, quiet_tensorflow_import

if TYPE_CHECKING:
    from landuse.ml.pool import Pool
    from landuse.params import ComputeParams, Params

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, promote and serve a scene classifier for overhead images. Run it in the project's folder.",
)
STAGES = "Stages, as `dvc repro` runs them"
CHAMPION = "The champion"
USE = "Using the model"
UNREADABLE_FILES, INTERRUPTED = 4, 130  # exit codes
DEFAULT_GC_THRESHOLD, STARTUP_GC_THRESHOLD = gc.get_threshold(), 100_000
ModelOption = Annotated[
    str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder, instead of the champion.")
]
Int8Option = Annotated[
    bool, typer.Option("--int8", help="Use the int8 model: nearly twice as fast, but not what the gate judged.")
]


def echo(text: object) -> None:
    """Print text with untrusted characters escaped."""
    print("\n".join(map(printable, str(text).split("\n"))), flush=True)


def load_params() -> "Params":
    """Load params.yaml. Raises LanduseError if it is invalid."""
    from landuse import params

    return params.load_params()


Arrival = Annotated[str | None, typer.Argument(help="An archive or folder to use instead of `data.source`.")]


def show_version(wanted: bool) -> None:
    """Print the version of landuse and exit, if wanted."""
    if wanted:
        from importlib.metadata import version

        print(f"landuse {version('landuse')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
]


@app.callback()
def recover(version: VersionOption = False) -> None:
    """Recover from a command that was killed."""
    from landuse.recovery import recover_interrupted

    recover_interrupted()


@contextmanager
def working(params: "ComputeParams", pushed: bool = False, stderr: bool = False) -> Iterator["Pool"]:
    """Context with the pool that does the work on images, which may be those `pushed` with data/."""
    from landuse.compute import open_pool

    with open_pool(params, partial(print, file=sys.stderr) if stderr else echo, pushed) as pool:
        yield pool


@app.command(rich_help_panel="Data")
def fetch(arrival: Arrival = None) -> None:
    """Download the archive that `ingest` would import, and verify its checksum."""
    from landuse.ingest import fetch

    params = load_params()
    echo(fetch(params.data, params.validate, arrival))


@app.command(rich_help_panel="Data")
def ingest(
    arrival: Arrival = None,
    addition: Annotated[
        str | None, typer.Option("--add", metavar="ARRIVAL", help="Add the images of an archive or folder instead.")
    ] = None,
    removal: Annotated[
        str | None,
        typer.Option("--remove", metavar="LIST", help="Remove the images in a file: a path or sha256 a line."),
    ] = None,
) -> None:
    """Import the images of `data.source`: validate them, swap them in for the old ones, and version them."""
    from landuse.ingest import add, ingest, remove_images

    params = load_params()
    if len([given for given in (arrival, addition, removal) if given is not None]) > 1:
        raise LanduseError("an arrival, --add and --remove each change data/ by themselves: run one after the other")
    with working(params.compute) as pool:
        if addition is not None:
            echo(add(params.data, params.validate, addition, pool))
        elif removal is not None:
            echo(remove_images(params.data, params.validate, removal, pool))
        else:
            echo(ingest(params.data, params.validate, arrival, pool))


@app.command(rich_help_panel="Data")
def init(
    source: Annotated[str, typer.Argument(metavar="FOLDER|ARCHIVE", help="Your images, as <class>/<image>.")],
    name: Annotated[str | None, typer.Option(help="Of the model in the registry; default: that of the folder.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, or a file of weights; default: what this machine has, or it asks.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a params.yaml that was edited.")] = False,
) -> None:
    """Look at your images, and write a params.yaml that fits them."""
    from landuse.init import init

    def ask(question: str, default: str) -> str:
        answer: str = typer.prompt(question, default=default)
        return answer

    echo(init(source, name, weights, force, ask if sys.stdin.isatty() else None))


@contextmanager
def running(stage: str) -> Iterator["Params"]:
    """Context in which a stage runs, with the params; refuses results if their inputs change meanwhile."""
    from landuse.project.stage_guard import guard_stage

    with guard_stage(stage) as params:
        yield params


@app.command(rich_help_panel=STAGES)
def validate() -> None:
    """Validate every image in data/; fail on unusable data."""
    with running("validate") as params:
        from landuse.validate import validate

        with working(params.compute) as pool:
            echo(validate(params.validate, pool=pool))


@app.command(rich_help_panel=STAGES)
def extract() -> None:
    """Compute the features of the frozen part of the network for every view of every image."""
    with running("extract") as params:
        with quiet_tensorflow_import():
            from landuse.extract import extract
        with working(params.compute, pushed=True) as pool:
            echo(extract(params.extract, params.train.unfreeze_from, pool))


@app.command(rich_help_panel=STAGES)
def split() -> None:
    """Split the images into train, validation and test; near-duplicates stay together."""
    with running("split") as params:
        from landuse.split import split

        echo(", ".join(f"{images:,} {subset}" for subset, images in split(params.split).items()))


@app.command(rich_help_panel=STAGES)
def train() -> None:
    """Fine-tune and export the model, as one MLflow run."""
    with running("train") as params:
        with quiet_tensorflow_import():
            from landuse.train import train
        train(params.train)


@app.command(rich_help_panel=STAGES)
def evaluate() -> None:
    """Score the exported model on the held-out images."""
    with running("evaluate") as params:
        from landuse.evaluate import evaluate

        metrics = {key: value for key, value in evaluate(params.evaluate).items() if not isinstance(value, list)}
        texts = (f"{value:.4f}" if isinstance(value, float) else value for value in metrics.values())
        echo(", ".join(f"{key} {text}" for key, text in zip(metrics, texts, strict=True)))


@app.command(rich_help_panel=STAGES)
def register() -> None:
    """Register the model as a new version and make it the challenger."""
    with running("register") as params:
        from landuse.register import register

        version = register(params.register)
        echo(f"{version.name} version {version.version} is the challenger")


@app.command(rich_help_panel="Data")
def tune(
    write: Annotated[bool, typer.Option("--apply", help="Write the best values into params.yaml.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="The number of processes that search on this machine.")] = 1,
) -> None:
    """Search for better values of `train` on the cached features, with as many trials as params.yaml says."""
    params = load_params()
    from landuse.params.editor import apply
    from landuse.tune import tune

    values = tune(params.train, params.tune, params.extract, echo, workers)
    if values.items() <= asdict(params.train).items():
        echo("params.yaml has these values already")
    else:
        echo(apply({"train": values}) if write else "landuse tune --apply writes it into params.yaml")


@app.command(rich_help_panel="Data")
def study(
    register: Annotated[bool, typer.Option("--register", help="Register every network as a version.")] = False,
) -> None:
    """Train the networks of `study.networks` on the same images and split, and compare them on a page."""
    params = load_params()
    from landuse.study import study

    echo(study(params, register, echo))


@app.command(rich_help_panel=CHAMPION)
def promote(
    version: Annotated[str | None, typer.Argument(help="Number of the version; default: the challenger.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it whatever the gate says; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; kept in the ledger.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge it, but change nothing.")] = False,
) -> None:
    """Judge a version of the model, and make it the champion if it passes."""
    params = load_params()
    if force != bool(reason and reason.strip()):
        raise LanduseError("--force and --reason TEXT go together: the ledger keeps why the gate was overruled")
    from landuse.promote import promote

    name = params.register.model
    blessing = promote(params.promote, params.evaluate, name, version, reason=reason, dry_run=dry_run, notify=echo)
    outcome = "is the champion" if blessing.promoted else f"{blessing.verdict}; nothing was moved"
    echo(f"{name} version {blessing.version} {outcome}")


@app.command(rich_help_panel=CHAMPION)
def thresholds(
    write: Annotated[bool, typer.Option("--apply", help="Write them into params.yaml.")] = False,
) -> None:
    """Propose limits and families for the gate from the version that was judged last, and show why."""
    params = load_params()
    from landuse.params.editor import apply
    from landuse.thresholds import thresholds

    proposals = thresholds(params.promote)
    echo("\n".join(map(str, proposals)))
    values = {proposal.key: proposal.proposed for proposal in proposals}
    echo(apply({"promote": values}) if write else "landuse thresholds --apply writes them into params.yaml")


@app.command(rich_help_panel=CHAMPION)
def rollback() -> None:
    """Make the previous champion the champion again."""
    name = load_params().register.model
    from landuse.promote.rollback import rollback

    echo(f"{name} version {rollback(name)} is the champion again")


@app.command(rich_help_panel=CHAMPION)
def history() -> None:
    """Show which versions became champion, when, by whom and why."""
    name = load_params().register.model
    from landuse.promote.history import history

    echo(history(name))


@app.command(rich_help_panel=CHAMPION)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Number of a version.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Number of another; its held-out images are used.")],
) -> None:
    """Score two versions on the same images, side by side."""
    params = load_params()
    from landuse.promote.compare import compare

    echo(compare(params.register.model, first, second, params.evaluate))


@app.command(rich_help_panel=CHAMPION)
def verify(version: Annotated[str, typer.Argument(help="Number of the version.")]) -> None:
    """Rebuild a version from its commit, data and params, and check that the results are the same."""
    name = load_params().register.model
    from landuse.verify import verify

    echo(verify(name, version, notify=echo))


@app.command(rich_help_panel=USE)
def predict(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders of images, quoted patterns.")],
    model: ModelOption = "",
    output: Annotated[
        Path | None, typer.Option(help="A .csv, .jsonl or .parquet file; an incomplete one is continued.")
    ] = None,
    int8: Int8Option = False,
) -> None:
    """Classify images, one row each; exit code 4 if some could not be read."""
    from landuse.params import ComputeParams
    from landuse.predict import predict

    compute = load_params().compute if PARAMS.exists() else ComputeParams(address=None, images="folder")
    with working(compute, stderr=True) as pool:
        tally = predict(paths, model or champion(), output, int8, pool)
    print(tally, file=sys.stderr)
    if tally.bad:
        raise typer.Exit(UNREADABLE_FILES)


@app.command(rich_help_panel=USE)
def serve(
    model: ModelOption = "",
    int8: Int8Option = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8080,
) -> None:
    """Serve predictions over HTTP, with a page to drop images on; follows the champion without a restart."""
    params = load_params()
    from landuse.registry.resolve import garbage_collection_paused

    with garbage_collection_paused():
        from landuse.serve import serve
    gc.set_threshold(*DEFAULT_GC_THRESHOLD)  # many short collections delay requests less than a long one
    serve(params.serve, model or champion(), int8, host, port)


@app.command(rich_help_panel=USE)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")], model: ModelOption = ""
) -> None:
    """Write a model as plain files: Keras, LiteRT in float32 and int8, labels, and a usage example."""
    from landuse.export import export

    echo(export(folder, model or champion()))


@app.command(rich_help_panel=USE)
def worker(
    address: Annotated[str, typer.Argument(help="Of the Dask scheduler, such as tcp://127.0.0.1:8786.")],
    workers: Annotated[int | None, typer.Option(min=1, help="How many to start; default: one for each core.")] = None,
) -> None:
    """Start workers here that do work on images for a Dask scheduler, until they are stopped."""
    from landuse.compute.worker import start_workers

    start_workers(address, workers)


def champion() -> str:
    """Return the URI of the champion, the default model."""
    return f"models:/{load_params().register.model}@champion"


@app.command(rich_help_panel="Data")
def info() -> None:
    """Show which data, run, model version and packages this folder stands for."""
    from landuse.info import info

    load_params()
    echo(info())


@app.command(rich_help_panel="Data")
def diff(
    revision: Annotated[str, typer.Argument(metavar="REV", help="A git revision.")] = "HEAD",
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another one, instead of data.dvc as it is now.")
    ] = None,
) -> None:
    """Show which images were added, removed, relabelled or changed since a git revision."""
    load_params()
    from landuse.diff import diff

    echo(diff(revision, other))


class Flow(StrEnum):
    """The flows in pipelines/."""

    ingestion, training, retraining, promotion = "ingestion", "training", "retraining", "promotion"


@app.command(rich_help_panel="Flows")
def flow(
    name: Annotated[Flow, typer.Argument(metavar="NAME", help=f"One of {', '.join(Flow)}.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="Parameters, as in source=tiles.zip or force=true; training also takes params, as in train.epochs=30.",
        ),
    ] = None,
) -> None:
    """Run a Prefect flow here and now, without a server."""
    load_params()
    from pipelines.steps.local_run import run_once

    run_once(name, settings or [])


def main() -> None:
    """Run the command line; an error that users can fix becomes one line and its exit code."""
    open_closed_streams()
    with report_errors():
        sanitize_environment()
        restrict_permissions()
        reexec_from_working_tree()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its complaints are reported in our own words
    gc.set_threshold(STARTUP_GC_THRESHOLD)  # imports create a million permanent objects: collecting takes a second
    atexit.register(gc.freeze)  # and another one at exit
    with report_errors():
        try:
            app()
        except SystemExit as end:
            if end.code == INTERRUPTED:  # Typer catches Ctrl-C and prints nothing
                print("landuse: stopped", file=sys.stderr)
            raise
