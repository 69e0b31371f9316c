"""What the report says in words and small tables: verdict, data, origin, and what the model is for and is not."""

from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from landuse.core.addresses import public, public_values
from landuse.gate.blessing import Blessing
from landuse.registry.version_record import VersionRecord

Rows = list[tuple[str, str]]
NOT_RECORDED = "not recorded"
SUBSETS = ("train", "validation", "test")


def headline(record: VersionRecord, blessing: Blessing) -> str:
    """How many of the held-out images are right, as the gate found it."""
    images = f"{record.metrics['images']:,} " if "images" in record.metrics else ""
    right = value(blessing, "accuracy")
    return (
        f"{images}held-out images, accuracy not recorded"
        if right is None
        else f"{right:.1%} of {images}held-out images are right"
    )


def verdict(blessing: Blessing) -> str:
    """What the gate found and what came of it, as one sentence."""
    failures = blessing.failures()
    if not failures:
        return "It passed the gate" + (" and became the champion." if blessing.promoted else "; nothing was moved.")
    if blessing.promoted:
        return f"The gate refused it ({failures[0].why}), and it was made champion by force: {blessing.reason}."
    return f"The gate refused it: {failures[0].why}."


def state(blessing: Blessing) -> str:
    """The style of the verdict."""
    return "failed" if blessing.verdict == "refused" else "passed"


def number(value: float | None) -> str:
    """A figure of a check as the page shows it."""
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:,.1f}".removesuffix(".0")


def key_figures(record: VersionRecord, blessing: Blessing) -> Rows:
    """A handful of figures, as the gate found them, and what they are; top-3 accuracy is that of the evaluation."""
    found = {
        "macro F1": (value(blessing, "macro_f1"), "{:.3f}"),
        "right among the first three": (record.metrics.get("top_3_accuracy"), "{:.1%}"),
        "recall of the worst class": (value(blessing, "class_recall"), "{:.1%}"),
        "calibration error": (value(blessing, "calibration_error"), "{:.3f}"),
        "an image, on one core": (value(blessing, "latency_ms"), "{:.1f} ms"),
        "model file": (value(blessing, "size_mb"), "{:.1f} MB"),
    }
    return [(style.format(figure), what) for what, (figure, style) in found.items() if figure is not None]


def value(blessing: Blessing, name: str) -> float | None:
    """The figure of a check, if it was made and has one."""
    return next((made.value for made in blessing.checks if made.name == name), None)


def changed_classes(blessing: Blessing) -> pd.DataFrame:
    """One row per class whose recall differs from the champion's, the one that fell furthest first."""
    rows = pd.DataFrame.from_dict(blessing.detail("class_fall"), orient="index", columns=["champion", "this"])
    rows = rows.astype(float).dropna().assign(change=lambda both: both["this"] - both["champion"])
    return rows[rows["change"] != 0].sort_values("change", kind="stable")


def slices(blessing: Blessing) -> pd.DataFrame | None:
    """One row per slice that the gate looked at: slice, images, accuracy, threshold; None where it kept none."""
    rows = [
        {"slice": f"{made.name.removeprefix('slice_')} {short(part)}", "threshold": made.threshold} | found
        for made in blessing.checks
        if made.name.startswith("slice_")
        for part, found in made.detail.items()
    ]
    return pd.DataFrame(rows) if rows else None


def short(part: str) -> str:
    """The name of a slice; of a family, its first class and how many more."""
    first, *more = part.split("/")
    return f"{first} + {len(more)}" if more else first


def class_counts(record: VersionRecord) -> pd.DataFrame | None:
    """Images of each class (rows) in each subset there is, and in all."""
    if record.splits is None:
        return None
    counts = pd.crosstab(record.splits["label"], record.splits["subset"])
    counts = counts[[subset for subset in SUBSETS if subset in counts]]
    return counts.assign(all=counts.sum(axis=1))


def data_facts(record: VersionRecord) -> Rows:
    """What the data set is, what validation made of it, and what in it looks alike."""
    tags = record.run.data.tags
    return [
        ("Data set", tags.get("data.md5", NOT_RECORDED)),
        ("Source", last_name(public(tags.get("data.source", NOT_RECORDED)))),
        ("Validation", validation_words(record.validation)),
        ("Copies", copies(record.manifest)),
        ("Look-alikes", lookalikes(record.splits)),
    ]


def validation_words(found: dict[str, Any]) -> str:
    """How many expectations there were, and how many were not met."""
    if "expectations" not in found:
        return NOT_RECORDED
    expected = f"{found['images']:,} images, {len(found['expectations'])} expectations"
    return f"{'passed' if found['success'] else 'failed'}: {expected}, {found['warnings']} warnings"


def warnings(record: VersionRecord) -> Rows:
    """What validation expected and did not find, and what it found."""
    findings = record.validation.get("expectations", [])
    return [(finding["words"], finding["observed"]) for finding in findings if not finding["success"]]


def copies(manifest: pd.DataFrame | None) -> str:
    """How many images are there more than once."""
    if manifest is None:
        return NOT_RECORDED
    again = int(manifest["sha256"].duplicated().sum())
    return f"{again} of {len(manifest):,} images are there under another name too"


def lookalikes(splits: pd.DataFrame | None) -> str:
    """How many images have near-duplicates, which the split kept within one subset."""
    if splits is None:
        return NOT_RECORDED
    sizes = splits["group"].value_counts()
    alike = sizes[sizes > 1]
    return f"images: {alike.sum():,}, groups of them: {len(alike):,}, each kept within one subset"


def lineage(record: VersionRecord) -> Rows:
    """Where the model comes from: data, code, params, run, weights, device."""
    tags, run = record.run.data.tags, record.run.info
    dirty = {"true": ", with changes that were not committed", "false": ""}.get(tags.get("git.dirty"), "")
    return [
        ("Data", tags.get("data.md5", NOT_RECORDED)),
        ("Code", tags.get("git.commit", NOT_RECORDED) + dirty),
        ("Params", f"sha256 {tags['params.sha256']}" if "params.sha256" in tags else NOT_RECORDED),
        ("MLflow run", f"{run.run_id} ({run.run_name})"),
        ("Model file", f"sha256 {tags['model.sha256']}" if "model.sha256" in tags else NOT_RECORDED),
        ("Weights to begin with", last_name(tags.get("weights", NOT_RECORDED))),
        ("Their digest", f"sha256 {tags['weights.sha256']}" if "weights.sha256" in tags else NOT_RECORDED),
        ("Device", ", ".join(tags[key] for key in ("device", "processor") if key in tags) or NOT_RECORDED),
        ("Environment", ", ".join(f"{name} {kept}" for name, kept in record.versions.items()) or NOT_RECORDED),
    ]


def params(record: VersionRecord) -> Rows:
    """Every key of the params of the run; an older one may have recorded more of an address than is public."""
    return [(key, last_name(kept)) for key, kept in sorted(public_values(record.run.data.params).items())]


def last_name(text: str) -> str:
    """The file name of an absolute path: where it lay on some machine is nobody's business. Other text as it is."""
    return PurePosixPath(text).name if text.startswith("/") else text


def network(record: VersionRecord) -> Rows:
    """What the model is, as its card tells."""
    card = record.card
    if "backbone" not in card:
        return [("Network", NOT_RECORDED)]
    trained = f"{card['trained_parameters']:,} of {card['parameters']:,} parameters, from {card['unfrozen_from']} on"
    return [
        ("Network", f"{card['backbone']}, width {card['alpha']:g}, {card['image_size']} × {card['image_size']} pixels"),
        ("Trained", trained),
        ("Views averaged", str(card.get("averaged_views", 1))),
        ("Dead kernels", f"{card['dead_kernels']:.1%}" if "dead_kernels" in card else NOT_RECORDED),
    ]


def confidence(record: VersionRecord, blessing: Blessing) -> Rows:
    """What a confidence is worth."""
    metrics, card = record.metrics, record.card
    return [
        ("Calibration error", number(value(blessing, "calibration_error"))),
        ("Marked unsure", share(card.get("unsure_below"), "below a confidence of {:.1%}")),
        ("Not unsure", share(metrics.get("coverage"), "{:.1%} of the held-out images")),
        ("Of these right", share(metrics.get("sure_accuracy"), "{:.1%}")),
        ("Temperature", share(card.get("temperature"), "{:.3f}, fitted on validation images")),
    ]


def share(figure: float | None, words: str) -> str:
    """A figure in words, if it was recorded."""
    return NOT_RECORDED if figure is None else words.format(figure)


def intended_use(record: VersionRecord) -> list[str]:
    """What the model may be used for."""
    labels = record.card.get("labels", [])
    if record.is_sample:
        return [
            "To see the pipeline at work. The images are drawn by a program; the score says nothing about real ones.",
            "Not for any use on real images.",
        ]
    return [
        f"To say which of {len(labels)} kinds of land use an image taken from straight above mostly shows: "
        f"{', '.join(labels)}.",
        "For images like those it was trained on, in scale, sharpness and colour; a person should look at what is "
        "marked unsure, and at anything that matters.",
    ]


def limits(record: VersionRecord, blessing: Blessing) -> list[str]:
    """What was not tested, and what the figures do not say."""
    said = [
        "Held-out images come from the same data set as the training images. Other regions, seasons, cameras and "
        "scales were not tested, so expect less there.",
        "Every image gets one of the labels, also one that shows none of them or several.",
        "Images of another shape are squeezed into a square.",
        "Tested disturbances are the four in the gate's table, one at a time: haze, snow, clouds, shadows, noise and "
        "tilted views are not among them.",
        "Confidence was calibrated on validation images of the same data set; on other images it may mislead.",
    ]
    counts = class_counts(record)
    subset = record.metrics.get("subset")
    if counts is not None and subset in counts:
        few, many = counts[subset].min(), counts[subset].max()
        span = f"{few}" if few == many else f"{few} to {many}"
        said.append(f"A class has {span} held-out images: one image more or less is {1 / few:.0%} of its recall.")
    if subset == "validation":
        said.append(
            "There is no test subset: the held-out images also chose the best epoch, the temperature and the "
            "confidence below which it is unsure. That flatters its score, its calibration and its sure answers."
        )
    if blessing.champion is None:
        said.append("There was no champion to compare with.")
    return said
