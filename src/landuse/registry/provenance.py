"""Is what MLflow would run of a version code of this project, byte for byte. Nothing is run to find out."""

import re
from collections.abc import Iterable
from itertools import zip_longest
from os.path import basename, normpath
from pathlib import Path
from typing import Any

import yaml

from landuse.core.errors import LanduseError
from landuse.project.lineage import COMMIT, git

PACKAGE = Path(__file__).parents[1]
SOURCE = "src/landuse"
COMMIT_TAG = "register.git.commit"  # where it was registered, by which the code is that of git.commit or a later one
SCRIPT, CODE, MODEL = "pyfunc.py", "code/landuse", "artifacts/model"
CARD, REQUIREMENTS, EXAMPLE, SERVED = "MLmodel", "requirements.txt", "input_example.json", "serving_input_example.json"
ENVIRONMENTS = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
FILES = frozenset({CARD, REQUIREMENTS, EXAMPLE, SERVED, SCRIPT, *ENVIRONMENTS.values()})
FLAVOR = {
    "loader_module": "mlflow.pyfunc.loaders.code_model",
    "code": "code",
    "env": ENVIRONMENTS,
    "streamable": False,
}
TOLD = frozenset({"artifacts", "cloudpickle_version", "model_code_path", "python_version"})  # beside that, of a flavor
RECORD = frozenset(
    {
        *("artifact_path", "flavors", "is_signature_from_type_hint", "mlflow_version", "model_id", "model_size_bytes"),
        *("model_uuid", "prompts", "run_id", "saved_input_example_info", "signature", "type_hint_from_example"),
        "utc_time_created",
    }
)
NEEDED = ("ai-edge-litert", "mlflow", "numpy", "pillow", "pydantic")
PINNED = re.compile(rf"({'|'.join((*NEEDED, 'python', 'pip', 'setuptools', 'wheel'))})(==|<=|=)[\w.+!]+")
NOT_RUN = ": none of its code was run"


class Foreign(LanduseError):
    """A version with code that is not of this project, as far as is known here."""


def refuse_foreign(folder: Path, tags: dict[str, str]) -> None:
    """Raise Foreign unless the code in a version's folder is that at hand, or of the commit that its tags name.

    So are files and settings that we do not log: MLflow could be made to run them, or pip to install others.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in FILES and not name.startswith((f"{CODE}/", f"{MODEL}/")):
            raise Foreign(f"holds {name}, which landuse register does not write{NOT_RUN}")
    if not is_written_by_us(folder):
        raise Foreign(f"has an {CARD} or a list of packages that landuse register does not write{NOT_RUN}")
    code = code_in(folder)
    commits = [tags[tag] for tag in (COMMIT_TAG, "git.commit") if COMMIT.fullmatch(tags.get(tag, ""))]
    if not (is_here(code) or any(is_of(commit, code) for commit in commits)):
        known = f"here and in {' or '.join(commits)}" if commits else "here, and names no commit"
        raise Foreign(f"has other code than {SOURCE} {known}{NOT_RUN}; git fetch a commit that is not here")


def is_written_by_us(folder: Path) -> bool:
    """Whether MLmodel and the lists of packages say what we have MLflow write there, and nothing else."""
    try:
        lines = (folder / REQUIREMENTS).read_text("utf-8").split("\n")
        for name in ENVIRONMENTS.values():
            lines += leaves(yaml.safe_load((folder / name).read_text("utf-8")))
        return all(map(is_usual, lines)) and is_ours(yaml.safe_load((folder / CARD).read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        return False


def is_ours(record: dict[str, Any]) -> bool:
    """Whether MLmodel leads to the files that we log, by MLflow's own loader, and to nothing else."""
    flavor, example = record["flavors"]["python_function"], record["saved_input_example_info"]
    return (
        record.keys() <= RECORD
        and record["flavors"].keys() == {"python_function"}
        and flavor.keys() <= FLAVOR.keys() | TOLD
        and flavor.items() >= FLAVOR.items()
        and basename(flavor["model_code_path"]) == SCRIPT
        and {name: each["path"] for name, each in flavor["artifacts"].items()} == {"model": MODEL}
        and (example["artifact_path"], example["serving_input_path"]) == (EXAMPLE, SERVED)
    )


def leaves(content: Any) -> Iterable[str]:
    """The texts in a YAML document, without the keys."""
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from leaves(part)
    else:
        yield str(content)


def is_usual(line: str) -> bool:
    """Whether a line on packages names one that we need by its version, or is one that MLflow always writes."""
    usual = ("", "conda-forge", "mlflow-env", f"-r {REQUIREMENTS}")
    return line in usual or bool(PINNED.fullmatch(line) or re.fullmatch(r"3\.\d+\.\d+", line))


def code_in(folder: Path) -> dict[str, Path]:
    """Map every code file of a version's folder to its path in the package.

    The script at the top counts as the file of the package that it is a copy of, wherever that commit had it.
    """
    files = {path.relative_to(folder / CODE).as_posix(): path for path in sorted((folder / CODE).rglob("*"))}
    files = {name: path for name, path in files.items() if path.is_file()}
    script = (folder / SCRIPT).read_bytes()
    original = next((name for name in files if basename(name) == SCRIPT and files[name].read_bytes() == script), SCRIPT)
    return files | {f"./{original}": folder / SCRIPT}


def is_here(code: dict[str, Path]) -> bool:
    """Whether every file is byte for byte that of the code which runs at the moment."""
    return all(
        (PACKAGE / name).is_file() and (PACKAGE / name).read_bytes() == path.read_bytes() for name, path in code.items()
    )


def is_of(commit: str, code: dict[str, Path]) -> bool:
    """Whether every file is byte for byte that of a commit of this repository."""
    entries = (git("ls-tree", "-r", "-z", commit, "--", SOURCE) or "").split("\0")
    known = {path.removeprefix(f"{SOURCE}/"): about[-1] for *about, path in map(str.split, filter(None, entries))}
    hashed = git("hash-object", "--no-filters", "--", *map(str, code.values())) or ""
    return all(known.get(name) == blob for name, blob in zip_longest(map(normpath, code), hashed.split("\n")))
