"""Thresholds: propose limits and families for the gate from the version judged last, and how uncertain that is."""

from math import ceil, floor, sqrt
from typing import Any, NamedTuple

from landuse.core.errors import LanduseError
from landuse.core.files import read_record, read_table
from landuse.core.paths import BLESSING, METRICS, PER_CLASS, REGISTRATION
from landuse.gate.blessing import Blessing
from landuse.params import PromoteParams
from landuse.params.editor import to_yaml
from landuse.project import lineage
from landuse.thresholds.families import ALIKE, Family, propose_families

ERRORS = 2.5  # standard errors between what was measured and the limit
DISAGREEMENT = 0.1  # share of images whose answer a small change of the image usually turns
SLOWER, LARGER = 3, 1.5  # other machines are slower, and other backbones larger


class Proposal(NamedTuple):
    """A value of the gate: its key in `promote`, its present and its proposed value, and why."""

    key: str
    now: Any
    proposed: Any
    why: str

    def __str__(self) -> str:
        now, proposed = (f"{each:g}" if isinstance(each, int | float) else to_yaml(each) for each in self[1:3])
        return f"promote.{self.key:<24} {now:<8} -> {proposed:<8} {self.why}"


def thresholds(params: PromoteParams) -> list[Proposal]:
    """Return a proposal for each absolute limit, and for families unless some are named.

    Raises LanduseError if there are no figures of a judged version.
    """
    if not BLESSING.exists():
        raise LanduseError(f"{BLESSING} is not there yet: landuse promote judges a version, whatever comes out")
    blessing = Blessing.from_dict(read_record(BLESSING))
    refuse_other_version(blessing)
    images = int(read_record(METRICS)["images"])
    measured = {check.name: check.value for check in blessing.checks if check.judged and check.value is not None}
    missing = sorted({"accuracy", "macro_f1", "class_recall", "calibration_error"} - {*measured})
    if missing:
        raise LanduseError(f"{BLESSING} has no {missing[0]}: landuse promote judges the version anew")
    few = int(read_table(PER_CLASS)["support"].min())
    drops = [value for name, value in measured.items() if name.startswith("robust_")]
    proposals = {
        "min_accuracy": lowest(measured["accuracy"], images),
        "min_macro_f1": lowest(measured["macro_f1"], images),
        "min_class_recall": lowest(measured["class_recall"], few),
        "max_calibration_error": (
            ceil(100 * (2 * measured["calibration_error"] + 0.02)) / 100,
            f"twice the {measured['calibration_error']:.3f} measured, and 0.02",
        ),
        "max_disturbed_fall": (
            ceil(100 * (max(drops) + ERRORS * sqrt(DISAGREEMENT / images))) / 100,
            f"the largest fall was {max(drops):.1%}; {ERRORS} standard errors on {images} images more",
        ),
        "max_latency_ms": (
            10 * ceil(SLOWER * measured["latency_ms"] / 10),
            f"{SLOWER} times {measured['latency_ms']:.1f} ms",
        ),
        "max_size_mb": (ceil(LARGER * measured["size_mb"]), f"{LARGER} times {measured['size_mb']:.1f} MB"),
    }
    families, proposal = ([], []) if params.families else families_of(blessing, params)
    slices = [
        *judged_slices(blessing, params.min_slice_images),
        *((family.accuracy, family.images) for family in families),
    ]
    if slices:
        proposals["min_slice_accuracy"] = min(lowest(*each) for each in slices)
    return [Proposal(key, getattr(params, key), value, why) for key, (value, why) in proposals.items()] + proposal


def families_of(blessing: Blessing, params: PromoteParams) -> tuple[list[Family], list[Proposal]]:
    """Return the families that the model shows, and the proposal to name them.

    Raises LanduseError if data/ is another version than the one that the model was judged on.
    """
    current = lineage.data_record()["md5"]
    if current != blessing.data:
        raise LanduseError(
            f"{blessing.model} version {blessing.version} was judged on version {blessing.data} of data/, which is "
            f"{current} now: dvc repro, then landuse promote"
        )
    families, where = propose_families(params.min_slice_images)
    found = ", ".join(map(str, families)) or "no two classes"
    why = f"given to each other by the model, on {where}, {ALIKE:.0%} at least: {found}"
    return families, [Proposal("families", [], [family.labels for family in families], why)]


def refuse_other_version(blessing: Blessing) -> None:
    """Raise LanduseError if the metrics in `artifacts/` are of another version than the one judged last."""
    registered = read_record(REGISTRATION)
    if (registered["model"], registered["version"]) != (blessing.model, blessing.version):
        raise LanduseError(
            f"{METRICS} is of {registered['model']} version {registered['version']}, and {blessing.model} version "
            f"{blessing.version} was judged last: landuse promote {registered['version']} judges the former"
        )


def judged_slices(blessing: Blessing, fewest: int) -> list[tuple[float, int]]:
    """Return accuracy and images of the slices that have at least so many images, the only ones that are judged."""
    figures = (each for check in blessing.checks if check.name.startswith("slice_") for each in check.detail.values())
    return [(each["accuracy"], int(each["images"])) for each in figures if each["images"] >= fewest]


def lowest(share: float, images: int) -> tuple[float, str]:
    """Return a limit below a measured share, to two decimals, and why.

    The standard error is that of one more right and one more wrong image, so that it is never zero.
    """
    middle = (share * images + 1) / (images + 2)
    error = sqrt(middle * (1 - middle) / images)
    limit = max(0.0, floor(100 * (share - ERRORS * error)) / 100)
    return limit, f"{share:.1%} on {images} images, less {ERRORS} standard errors of {error:.1%}"
