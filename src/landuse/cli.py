"""The command `landuse`: ingest, one verb per stage, info. Each verb imports what it needs, so that help is instant."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from landuse.errors import LanduseError
from landuse.quiet import native_stderr_muted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps a trusted scene classifier for overhead images. Run it in the project's folder.",
)
STAGES = "Stages, as `dvc repro` runs them"
USE = "The model at work"
BAD_FILES = 3
ModelOption = Annotated[
    str, typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION or a folder, in place of the champion.")
]


def say(text: object) -> None:
    """A line for people."""
    print(text, flush=True)


@app.command(rich_help_panel="Data")
def ingest() -> None:
    """Bring in the images of `data.source`: validated beside the old ones, then put in their place and versioned."""
    from landuse.ingest import ingest
    from landuse.params import load_params

    params = load_params()
    say(ingest(params.data, params.validate))


@app.command(rich_help_panel=STAGES)
def validate() -> None:
    """Look at every image of data/; stop at what must not be learned from."""
    from landuse.params import load_params
    from landuse.validate import validate

    say(validate(load_params().validate))


@app.command(rich_help_panel=STAGES)
def extract() -> None:
    """Compute what the frozen part of the network sees in every image and view."""
    from landuse.params import load_params

    params = load_params()
    with native_stderr_muted():
        from landuse.extract import extract
    extract(params.extract, params.train.unfreeze_from)


@app.command(rich_help_panel=STAGES)
def split() -> None:
    """Divide the images into train, validation and test; what looks alike stays together."""
    from landuse.params import load_params
    from landuse.split import split

    say(", ".join(f"{images:,} {subset}" for subset, images in split(load_params().split).items()))


@app.command(rich_help_panel=STAGES)
def train() -> None:
    """Fine-tune and export the model: one MLflow run."""
    from landuse.params import load_params

    params = load_params()
    with native_stderr_muted():
        from landuse.train import train
    train(params.train)


@app.command(rich_help_panel=STAGES)
def evaluate() -> None:
    """Score the exported model on the images of the held-out subset."""
    from landuse.evaluate import evaluate
    from landuse.params import load_params

    metrics = evaluate(load_params().evaluate)
    say(
        ", ".join(
            f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in metrics.items()
        )
    )


@app.command(rich_help_panel=STAGES)
def register() -> None:
    """Make the model a version in the registry, and the challenger."""
    from landuse.params import load_params
    from landuse.register import register

    version = register(load_params().register)
    say(f"{version.name} version {version.version} is the challenger")


@app.command(rich_help_panel=USE)
def predict(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders of images, quoted patterns.")],
    model: ModelOption = "",
    output: Annotated[
        Path | None, typer.Option(help="A .csv, .jsonl or .parquet file, gone on with where it was left.")
    ] = None,
) -> None:
    """Say what images show, one row each; exit code 3 where some could not be read."""
    from landuse.predict import predict

    tally = predict(paths, model or champion(), output)
    print(tally, file=sys.stderr)
    if tally.bad:
        raise typer.Exit(BAD_FILES)


@app.command(rich_help_panel=USE)
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")], model: ModelOption = ""
) -> None:
    """Write a model as plain files: Keras, LiteRT in float32 and int8, labels, and an example that uses them."""
    from landuse.export import export

    say(export(folder, model or champion()))


def champion() -> str:
    """The model that is used unless another is named."""
    from landuse.params import load_params

    return f"models:/{load_params().register.model}@champion"


@app.command(rich_help_panel="Data")
def info() -> None:
    """Say which data, run, model version and packages this folder stands for."""
    from landuse.info import info
    from landuse.params import load_params

    load_params()
    say(info())


def main() -> None:
    """Run the command line; a LanduseError becomes one line and exit code 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore", module="PIL")
    try:
        app()
    except LanduseError as error:
        print(f"landuse: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("landuse: stopped", file=sys.stderr)
        sys.exit(130)
