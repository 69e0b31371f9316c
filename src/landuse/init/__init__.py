"""Init: write a `params.yaml` that fits one's own images."""

import re
from pathlib import Path
from shutil import copy
from tempfile import TemporaryDirectory
from unicodedata import normalize

from landuse.core.errors import LanduseError, Refused, printable
from landuse.core.files import write_atomically
from landuse.core.paths import PARAMS, RUN
from landuse.init.choices import Choice, choose, input_side
from landuse.init.survey import Survey, survey
from landuse.init.weights import Ask, find_weights, named_weights
from landuse.params import load_params
from landuse.params.editor import replace_all, to_yaml

BEFORE = Path("params.before.yaml")
SHOWN = 34  # characters of a value
TEMPLATE, UNTOUCHED = Path("presets/ucmerced.yaml"), Path("presets/sample.yaml")
NEXT = "next: make run trains and judges a first model; then landuse thresholds proposes limits for the gate from it"


def init(source: str, name: str | None, weights: str | None, force: bool, ask: Ask | None = None) -> str:
    """Survey images, write `params.yaml` with values that fit them, and return a table of the choices.

    `ask` asks the user which weights to take if there is nothing to choose them by. Raises LanduseError if there are
    edited params already, unless forced, or the weights do not exist, and Refused if the images cannot be learned from.
    """
    refuse_edited(force)
    if not source.isprintable():
        raise Refused(f"{printable(source)} has unprintable characters in its name: rename it")
    named = named_weights(weights)
    path = Path(source).expanduser()
    found = survey(path)
    named = named or find_weights(input_side(found), ask)
    choices = choose(found, source, name or model_name(path), named)
    text = with_title(replace_all(TEMPLATE.read_text(encoding="utf-8"), changes(choices)), path, found)
    refuse_invalid(text)
    earlier = [*describe_runs(), *keep_earlier(text)]
    write_atomically(PARAMS, text)
    return "\n".join(
        [*map(describe, choices), *describe_resolution(found), "", *earlier, f"{PARAMS} is written; {NEXT}"]
    )


def keep_earlier(text: str) -> list[str]:
    """Keep a `params.yaml` that somebody edited beside the new one, and say so."""
    if not PARAMS.exists() or PARAMS.read_bytes() in (UNTOUCHED.read_bytes(), text.encode()):
        return []
    copy(PARAMS, BEFORE)
    return [f"the {PARAMS} of before is kept as {BEFORE}"]


def with_title(text: str, path: Path, found: Survey) -> str:
    """Replace the first line of the params file, a comment on the preset, by one on the images."""
    images = printable(path.resolve().name)
    title = f"# Images of {images}, the last blocks of the network fine-tuned; written by landuse init."
    told = [f"# Ground resolution: {value} a pixel ({why})." for value, why in resolution_of(found)]
    return "\n".join([title, *told]) + text[text.index("\n") :]


def resolution_of(found: Survey) -> list[tuple[str, str]]:
    """Return the usual ground resolution, and how many images tell it; empty if none does."""
    told, kinds = found.resolutions.total(), len(found.resolutions)
    others = f"; {kinds - 1:,} other{'s' if kinds > 2 else ''} occur{'' if kinds > 2 else 's'}" if kinds > 1 else ""
    why = f"{told:,} of {found.images:,} images tell one{others}"
    return [(value, why) for value, _ in found.resolutions.most_common(1)]


def describe_resolution(found: Survey) -> list[str]:
    """Format the ground resolution as a row of the table; empty if the files do not tell it."""
    return [row("ground resolution", f"{value} a pixel", why) for value, why in resolution_of(found)]


def describe_runs() -> list[str]:
    """Say what becomes of the runs and images of this project, if there are runs."""
    return ["this project has runs: they and their versions stay, and ingest replaces data/"] if RUN.exists() else []


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
    return row(f"{choice.section}.{choice.key}", shown, choice.why)


def row(name: str, value: str, why: str) -> str:
    """Format a row of the table."""
    return f"{name:<30} {value:<{SHOWN}} {why}"
