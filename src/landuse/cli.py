"""The command `landuse` and its verbs. Each imports what it needs, so that help is instant."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landuse.core.environment import keep_from_others, own_environment
from landuse.core.errors import LanduseError, in_one_line, printable
from landuse.core.reexec import run_own_code
from landuse.core.streams import open_closed_streams, tensorflow_starts

if TYPE_CHECKING:
    from landuse.params import Params

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a trusted scene classifier for overhead images. Run it in the project's folder.",
)
STAGES = "Stages, as `dvc repro` runs them"
CHAMPION = "The champion"
USE = "The model at work"
BAD_FILES, STOPPED = 4, 130
USUAL_OBJECTS, MANY_OBJECTS = gc.get_threshold(), 100_000
ModelOption = Annotated[
    str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder, in place of the champion.")
]
Int8Option = Annotated[
    bool, typer.Option("--int8", help="Let its int8 file answer: nearly twice as fast, but not what the gate judged.")
]


def say(text: object) -> None:
    """Lines for people."""
    print("\n".join(map(printable, str(text).split("\n"))), flush=True)


def load_params() -> "Params":
    """What params.yaml says. Raises LanduseError where it says nothing that is allowed."""
    from landuse import params

    return params.load_params()


Arrival = Annotated[str | None, typer.Argument(help="An archive or folder that arrived, instead of `data.source`.")]


@app.callback()
def before_any() -> None:
    """Heal what a command that was killed left behind."""
    from landuse.recovery import recover_killed

    recover_killed()


@app.command(rich_help_panel="Data")
def fetch(arrival: Arrival = None) -> None:
    """Bring the archive that `ingest` would take in to this machine, and verify its checksum."""
    from landuse.ingest import fetch

    params = load_params()
    say(fetch(params.data, params.validate, arrival))


@app.command(rich_help_panel="Data")
def ingest(arrival: Arrival = None) -> None:
    """Bring in the images of `data.source`: validated beside the old ones, then put in their place and versioned."""
    from landuse.ingest import ingest

    params = load_params()
    say(ingest(params.data, params.validate, arrival))


@contextmanager
def running(stage: str) -> Iterator["Params"]:
    """The params, for a stage to run within; see `inputs.kept`."""
    from landuse.project.stage_guard import kept

    with kept(stage) as params:
        yield params


@app.command(rich_help_panel=STAGES)
def validate() -> None:
    """Look at every image of data/; stop at what must not be learned from."""
    with running("validate") as params:
        from landuse.validate import validate

        say(validate(params.validate))


@app.command(rich_help_panel=STAGES)
def extract() -> None:
    """Compute what the frozen part of the network sees in every image and view."""
    with running("extract") as params:
        with tensorflow_starts():
            from landuse.extract import extract
        extract(params.extract, params.train.unfreeze_from)


@app.command(rich_help_panel=STAGES)
def split() -> None:
    """Divide the images into train, validation and test; what looks alike stays together."""
    with running("split") as params:
        from landuse.split import split

        say(", ".join(f"{images:,} {subset}" for subset, images in split(params.split).items()))


@app.command(rich_help_panel=STAGES)
def train() -> None:
    """Fine-tune and export the model: one MLflow run."""
    with running("train") as params:
        with tensorflow_starts():
            from landuse.train import train
        train(params.train)


@app.command(rich_help_panel=STAGES)
def evaluate() -> None:
    """Score the exported model on the images of the held-out subset."""
    with running("evaluate") as params:
        from landuse.evaluate import evaluate

        metrics = evaluate(params.evaluate).items()
        say(", ".join(f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics))


@app.command(rich_help_panel=STAGES)
def register() -> None:
    """Make the model a version in the registry, and the challenger."""
    with running("register") as params:
        from landuse.register import register

        version = register(params.register)
        say(f"{version.name} version {version.version} is the challenger")


@app.command(rich_help_panel="Data")
def tune(
    write: Annotated[bool, typer.Option("--apply", help="Write the best values into params.yaml.")] = False,
) -> None:
    """Search better values for `train` on what is cached: as many trials as params.yaml says."""
    params = load_params()
    from landuse.tune import tune
    from landuse.tune.apply import apply

    values = tune(params.train, params.tune, params.extract, say)
    if values.items() <= asdict(params.train).items():
        say("params.yaml has these values already")
    else:
        say(apply(values) if write else "landuse tune --apply writes it into params.yaml")


@app.command(rich_help_panel=CHAMPION)
def promote(
    version: Annotated[str | None, typer.Argument(help="Its number; the challenger where none is given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it whatever the gate says; needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is forced; the ledger keeps it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge it and move nothing.")] = False,
) -> None:
    """Judge a version of the model, and make it the champion if it passes."""
    params = load_params()
    if force != bool(reason and reason.strip()):
        raise LanduseError("--force and --reason TEXT go together: the ledger keeps why the gate was overruled")
    from landuse.promote import promote

    name = params.register.model
    blessing = promote(params.promote, params.evaluate, name, version, reason=reason, dry_run=dry_run, tell=say)
    outcome = "is the champion" if blessing.promoted else f"{blessing.verdict}; nothing was moved"
    say(f"{name} version {blessing.version} {outcome}")


@app.command(rich_help_panel=CHAMPION)
def rollback() -> None:
    """Make the champion before this one the champion again."""
    name = load_params().register.model
    from landuse.promote.rollback import rollback

    say(f"{name} version {rollback(name)} is the champion again")


@app.command(rich_help_panel=CHAMPION)
def history() -> None:
    """Show which version became champion when, by whom and why."""
    name = load_params().register.model
    from landuse.promote.history import history

    say(history(name))


@app.command(rich_help_panel=CHAMPION)
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Number of a version.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Number of another; its held-out images are looked at.")],
) -> None:
    """Score two versions on the same images, side by side."""
    params = load_params()
    from landuse.promote.compare import compare

    say(compare(params.register.model, first, second, params.evaluate))


@app.command(rich_help_panel=CHAMPION)
def verify(version: Annotated[str, typer.Argument(help="Its number.")]) -> None:
    """Make a version again from its commit, data and params, and see whether the same comes out."""
    name = load_params().register.model
    from landuse.verify import verify

    say(verify(name, version, tell=say))


@app.command(rich_help_panel=USE)
def predict(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders of images, quoted patterns.")],
    model: ModelOption = "",
    output: Annotated[
        Path | None, typer.Option(help="A .csv, .jsonl or .parquet file, gone on with where it was left.")
    ] = None,
    int8: Int8Option = False,
) -> None:
    """Say what images show, one row each; exit code 4 where some could not be read."""
    from landuse.predict import predict

    tally = predict(paths, model or champion(), output, int8)
    print(tally, file=sys.stderr)
    if tally.bad:
        raise typer.Exit(BAD_FILES)


@app.command(rich_help_panel=USE)
def serve(
    model: ModelOption = "",
    int8: Int8Option = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
) -> None:
    """Answer over HTTP, with a page to drop images on; follows the champion without a restart."""
    params = load_params()
    from landuse.registry.resolve import collecting_no_garbage

    with collecting_no_garbage():
        from landuse.serve import serve
    gc.set_threshold(*USUAL_OBJECTS)  # requests wait less for many short searches than for a long one
    serve(params.serve, model or champion(), int8, host, port)


@app.command(rich_help_panel=USE)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")], model: ModelOption = ""
) -> None:
    """Write a model as plain files: Keras, LiteRT in float32 and int8, labels, and an example that uses them."""
    from landuse.export import export

    say(export(folder, model or champion()))


def champion() -> str:
    """The model that is used unless another is named."""
    return f"models:/{load_params().register.model}@champion"


@app.command(rich_help_panel="Data")
def info() -> None:
    """Say which data, run, model version and packages this folder stands for."""
    from landuse.info import info

    load_params()
    say(info())


class Flow(StrEnum):
    """The flows of pipelines/."""

    ingestion, training, retraining, promotion = "ingestion", "training", "retraining", "promotion"


@app.command(rich_help_panel="Flows")
def flow(
    name: Flow,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...",
            help="What it takes, as source=tiles.zip or force=true; training also takes params, as train.epochs=30.",
        ),
    ] = None,
) -> None:
    """Run a Prefect flow here and now, with no server needed."""
    load_params()
    from pipelines.steps.local_run import run_once

    run_once(name, settings or [])


def main() -> None:
    """Run the command line; an error that people can mend becomes one line and its exit code."""
    open_closed_streams()
    with in_one_line():
        own_environment()
        keep_from_others()
        run_own_code()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it complains of is said in words of our own
    gc.set_threshold(MANY_OBJECTS)  # imports make a million that stay: to search them for garbage takes a second
    atexit.register(gc.freeze)  # and another one in the end
    with in_one_line():
        try:
            app()
        except SystemExit as end:
            if end.code == STOPPED:  # Typer takes Ctrl-C, and says nothing
                print("landuse: stopped", file=sys.stderr)
            raise
