"""Check, without running anything, that the code MLflow would run for a version is this project's, byte for byte."""

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
COMMIT_TAG = "register.git.commit"  # HEAD at registration: the logged code is of this commit or of git.commit
SCRIPT, CODE, MODEL = "pyfunc.py", "code/landuse", "artifacts/model"
MLMODEL, REQUIREMENTS = "MLmodel", "requirements.txt"
EXAMPLE, SERVED = "input_example.json", "serving_input_example.json"
ENVIRONMENTS = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
EXPECTED_FILES = frozenset({MLMODEL, REQUIREMENTS, EXAMPLE, SERVED, SCRIPT, *ENVIRONMENTS.values()})
FLAVOR = {
    "loader_module": "mlflow.pyfunc.loaders.code_model",
    "code": "code",
    "env": ENVIRONMENTS,
    "streamable": False,
}
MORE_FLAVOR_KEYS = frozenset({"artifacts", "cloudpickle_version", "model_code_path", "python_version"})
MLMODEL_KEYS = frozenset(
    {
        *("artifact_path", "flavors", "is_signature_from_type_hint", "mlflow_version", "model_id", "model_size_bytes"),
        *("model_uuid", "prompts", "run_id", "saved_input_example_info", "signature", "type_hint_from_example"),
        "utc_time_created",
    }
)
REQUIRED_PACKAGES = ("ai-edge-litert", "mlflow", "numpy", "pillow", "pydantic")
PINNED = re.compile(rf"({'|'.join((*REQUIRED_PACKAGES, 'python', 'pip', 'setuptools', 'wheel'))})(==|<=|=)[\w.+!]+")
NOT_RUN = ": none of its code was run"


class ForeignCode(LanduseError):
    """A version has code that cannot be traced to this project."""


def refuse_foreign_code(folder: Path, tags: dict[str, str]) -> None:
    """Raise ForeignCode unless the code in a version's folder is the running code, or of a commit that its tags name.

    Files and settings that `landuse register` does not write are refused too: MLflow could be made to run them, or pip
    to install other packages.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in EXPECTED_FILES and not name.startswith((f"{CODE}/", f"{MODEL}/")):
            raise ForeignCode(f"holds {name}, which landuse register does not write{NOT_RUN}")
    if not has_expected_metadata(folder):
        raise ForeignCode(f"has an {MLMODEL} or a list of packages that landuse register does not write{NOT_RUN}")
    code = code_files(folder)
    commits = [tags[tag] for tag in (COMMIT_TAG, "git.commit") if COMMIT.fullmatch(tags.get(tag, ""))]
    if not (matches_running_code(code) or any(matches_commit(commit, code) for commit in commits)):
        compared = f"here and in {' or '.join(commits)}" if commits else "here, and names no commit"
        raise ForeignCode(f"has other code than {SOURCE} {compared}{NOT_RUN}; git fetch a commit that is not here")


def has_expected_metadata(folder: Path) -> bool:
    """Return whether MLmodel and the package lists hold what `landuse register` has MLflow write, and nothing else."""
    try:
        lines = (folder / REQUIREMENTS).read_text("utf-8").split("\n")
        for name in ENVIRONMENTS.values():
            lines += leaf_texts(yaml.safe_load((folder / name).read_text("utf-8")))
        mlmodel = yaml.safe_load((folder / MLMODEL).read_text("utf-8"))
        return all(map(is_expected_requirement, lines)) and is_expected_mlmodel(mlmodel)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        return False


def is_expected_mlmodel(content: dict[str, Any]) -> bool:
    """Return whether MLmodel refers to the files that we log, through MLflow's own loader, and to nothing else."""
    flavor, example = content["flavors"]["python_function"], content["saved_input_example_info"]
    return (
        content.keys() <= MLMODEL_KEYS
        and content["flavors"].keys() == {"python_function"}
        and flavor.keys() <= FLAVOR.keys() | MORE_FLAVOR_KEYS
        and flavor.items() >= FLAVOR.items()
        and basename(flavor["model_code_path"]) == SCRIPT
        and {name: artifact["path"] for name, artifact in flavor["artifacts"].items()} == {"model": MODEL}
        and (example["artifact_path"], example["serving_input_path"]) == (EXAMPLE, SERVED)
    )


def leaf_texts(content: Any) -> Iterable[str]:
    """Yield all values of a nested YAML document as text, without its keys."""
    if isinstance(content, dict | list):
        for part in content.values() if isinstance(content, dict) else content:
            yield from leaf_texts(part)
    else:
        yield str(content)


def is_expected_requirement(line: str) -> bool:
    """Return whether a line of a package list pins a package that we need, or is one that MLflow always writes."""
    fixed = ("", "conda-forge", "mlflow-env", f"-r {REQUIREMENTS}")
    return line in fixed or bool(PINNED.fullmatch(line) or re.fullmatch(r"3\.\d+\.\d+", line))


def code_files(folder: Path) -> dict[str, Path]:
    """Map the path within the package to each code file of a version's folder.

    The script at the top is mapped to the package file that it is a copy of, wherever the commit had that file.
    """
    files = {path.relative_to(folder / CODE).as_posix(): path for path in sorted((folder / CODE).rglob("*"))}
    files = {name: path for name, path in files.items() if path.is_file()}
    script = (folder / SCRIPT).read_bytes()
    original = next((name for name in files if basename(name) == SCRIPT and files[name].read_bytes() == script), SCRIPT)
    return files | {f"./{original}": folder / SCRIPT}


def matches_running_code(code: dict[str, Path]) -> bool:
    """Return whether every file equals, byte for byte, its counterpart in the package that is running now."""
    return all(
        (PACKAGE / name).is_file() and (PACKAGE / name).read_bytes() == path.read_bytes() for name, path in code.items()
    )


def matches_commit(commit: str, code: dict[str, Path]) -> bool:
    """Return whether every file equals, byte for byte, its counterpart in a commit of this repository."""
    listing = (git("ls-tree", "-r", "-z", commit, "--", SOURCE) or "").split("\0")
    blobs = {path.removeprefix(f"{SOURCE}/"): about[-1] for *about, path in map(str.split, filter(None, listing))}
    hashed = git("hash-object", "--no-filters", "--", *map(str, code.values())) or ""
    return all(blobs.get(name) == blob for name, blob in zip_longest(map(normpath, code), hashed.split("\n")))
