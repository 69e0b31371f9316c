"""Init: write a `params.yaml` that fits one's own images."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from unicodedata import normalize

from landuse.core.errors import LanduseError, Refused
from landuse.core.files import write_atomically
from landuse.core.paths import PARAMS, RUN
from landuse.init.choices import Choice, choose
from landuse.init.survey import survey
from landuse.ml.weights import describe_misfit
from landuse.params import load_params
from landuse.params.editor import replace_all, to_yaml

BACKBONE = "mobilenet_v2"  # of the template
SHOWN = 34  # characters of a value
TEMPLATE, UNTOUCHED = Path("presets/ucmerced.yaml"), Path("presets/sample.yaml")
NEXT = "next: make run trains and judges a first model; then landuse thresholds proposes limits for the gate from it"


def init(source: str, name: str | None, weights: str, force: bool) -> str:
    """Survey images, write `params.yaml` with values that fit them, and return a table of the choices.

    Raises LanduseError if there are edited params already, unless forced, or the weights do not exist, and Refused if
    the images cannot be learned from.
    """
    refuse_edited(force)
    if misfit := describe_misfit(weights, BACKBONE):
        raise LanduseError(f"--weights {weights}: {misfit}")
    path = Path(source).expanduser()
    choices = choose(survey(path), source, name or model_name(path), weights)
    text = with_title(replace_all(TEMPLATE.read_text(encoding="utf-8"), changes(choices)), path)
    refuse_invalid(text)
    write_atomically(PARAMS, text)
    return "\n".join([*map(describe, choices), "", f"{PARAMS} is written; {NEXT}"])


def with_title(text: str, path: Path) -> str:
    """Replace the first line of the params file, a comment on the preset, by one on the images."""
    title = f"# Images of {path.resolve().name}, the last blocks of the network fine-tuned; written by landuse init."
    return title + text[text.index("\n") :]


def refuse_edited(force: bool) -> None:
    """Raise LanduseError if `params.yaml` is not the sample preset as it came, unless forced."""
    if not TEMPLATE.exists():
        raise LanduseError(f"{PARAMS} is not here: run landuse in the project's folder")
    if force or not PARAMS.exists() or PARAMS.read_bytes() == UNTOUCHED.read_bytes():
        return
    runs = ", and there are runs of it" if RUN.exists() else ""
    raise LanduseError(f"{PARAMS} is not the one that came with the project{runs}: commit it, then --force replaces it")


def model_name(path: Path) -> str:
    """Make a name for the registry from the name of a file or folder."""
    name = normalize("NFKD", path.resolve().name).encode("ascii", "ignore").decode().lower()
    stem = re.sub(r"(\.tar)?\.[^.]+$", "", name) if path.is_file() else name
    return re.sub(r"[^a-z0-9_.-]+", "-", stem).strip("-.") or "landuse"


def changes(choices: list[Choice]) -> dict[str, dict[str, object]]:
    """Return the values of the choices by section and key."""
    sections: dict[str, dict[str, object]] = {}
    for choice in choices:
        sections.setdefault(choice.section, {})[choice.key] = choice.value
    return sections


def refuse_invalid(text: str) -> None:
    """Raise Refused if params of these images would be invalid, such as a class name that no file system takes."""
    with TemporaryDirectory() as folder:
        path = Path(folder, PARAMS.name)
        path.write_text(text, encoding="utf-8")
        try:
            load_params(path)
        except LanduseError as error:
            raise Refused(str(error).replace(f"{path}: ", "")) from None


def describe(choice: Choice) -> str:
    """Format a choice as a row of the table."""
    value = " ".join(to_yaml(choice.value).split())
    shown = value if len(value) <= SHOWN else f"{value[: SHOWN - 1]}…"
    return f"{choice.section + '.' + choice.key:<30} {shown:<{SHOWN}} {choice.why}"
