"""The end of `make run`: what the gate decided, and which commands make sense now."""

from pathlib import Path

from landuse import registry
from landuse.core.files import read_record
from landuse.core.paths import BLESSING, PARAMS, REPORT
from landuse.gate.blessing import Blessing
from landuse.project import lineage
from landuse.registry import CHALLENGER

SAMPLE, REAL_JOB = Path("presets/sample.yaml"), Path("presets/ucmerced.yaml")
WIDTH = 54


def next_steps() -> str:
    """Describe why the version judged last is not the champion, if so, and the commands that go on from there."""
    blessing = Blessing.from_dict(read_record(BLESSING))
    with registry.existing_store():
        champion = registry.aliases(blessing.model).get("champion")
    rows = [("make ui", "browse the run and the model: choose Model training, top left")]
    rows += [("source .venv/bin/activate", "for landuse, dvc and mlflow"), *steps_after(blessing, champion)]
    if lineage.git("status", "--porcelain", "--untracked-files=no"):
        rows.append(('git commit --all --message "A run"', "keep what was made, to compare with and go back to"))
    rows.append(("dvc exp run -S train.learning_rate=0.01", "try another value; dvc exp show compares"))
    if SAMPLE.exists() and PARAMS.read_bytes() == SAMPLE.read_bytes():  # or edited params would be lost
        rows.append((f"cp {REAL_JOB} {PARAMS} && make run", "the real job: UC Merced Land Use"))
    steps = (f"  {command:<{WIDTH - 1}} {meaning}" for command, meaning in rows)
    verdict = [] if blessing.version == champion else [describe_refusal(blessing, champion)]
    return "\n".join((*verdict, f"The report: {REPORT.absolute()}", "", "What next:", *steps))


def describe_refusal(blessing: Blessing, champion: str | None) -> str:
    """Say why a version is not the champion, and which one is."""
    name = f"{blessing.model} version {blessing.version}"
    stays = f"version {champion} stays the champion" if champion else "there is no champion yet"
    reason = f": {blessing.summarize_failures()}" if blessing.failures() else ""
    return f"{name} is not the champion, {stays}{reason}."


def steps_after(blessing: Blessing, champion: str | None) -> list[tuple[str, str]]:
    """Return the commands that depend on the verdict, each with what it does."""
    ask = ("landuse serve", "ask the champion, on a page to drop an image on")
    if blessing.version == champion:
        return [ask]
    challenger = f"models:/{blessing.model}@{CHALLENGER}"
    rows = [ask] if champion else []
    rows.append((f"landuse serve --model {challenger}", "ask the new version all the same"))
    keys = sorted({check.threshold_key for check in blessing.failures() if check.threshold_key})
    if keys:
        rows.append(("landuse promote", f"judge it again, after a change of {', '.join(keys)} in {PARAMS}"))
    return [*rows, ('landuse promote --force --reason "…"', "promote it against the verdict, if you know better")]
