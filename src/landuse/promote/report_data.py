"""The contents of the report as sentences and small tables: verdict, data, lineage, intended use and limitations."""

from typing import Any

import pandas as pd

from landuse.core.addresses import hide_folder, public, public_values
from landuse.gate.blessing import Blessing
from landuse.project.listings import DataChange
from landuse.registry.version_record import VersionRecord
from landuse.tracking.names import tags_for_people

Rows = list[tuple[str, str]]
NOT_RECORDED = "not recorded"
SUBSETS = ("train", "validation", "test")


def headline(record: VersionRecord, blessing: Blessing) -> str:
    """Return the accuracy on the held-out images, as measured by the gate."""
    images = f"{record.metrics['images']:,} " if "images" in record.metrics else ""
    accuracy = check_value(blessing, "accuracy")
    return (
        f"{images}held-out images, accuracy not recorded"
        if accuracy is None
        else f"{accuracy:.1%} of {images}held-out images are right"
    )


def origin(record: VersionRecord, since: str) -> str:
    """Name data and code of a version in a few words; `since` follows the data."""
    unknown = {"data.md5": "?", "data.source": "?", "git.commit": NOT_RECORDED, "git.dirty": "unknown"}
    tags = tags_for_people(unknown | record.facts)
    return f"data {tags['data']}{since}, code {tags['commit']}"


def verdict(blessing: Blessing) -> str:
    """Return the verdict of the gate and its outcome as one sentence."""
    failures = blessing.failures()
    if not failures:
        standing = f", {blessing.standing}" if blessing.standing else ""
        end = (
            f"{' before,' if standing else ''} and became the champion."
            if blessing.promoted
            else "; nothing was moved."
        )
        return f"It passed the gate{standing}{end}"
    if blessing.promoted:
        return f"The gate refused it ({failures[0].explanation}), and it was made champion by force: {blessing.reason}."
    return f"The gate refused it: {failures[0].explanation}."


def css_class(blessing: Blessing) -> str:
    """Return the CSS class of the verdict."""
    return "failed" if blessing.verdict == "refused" else "passed"


def format_number(value: float | None) -> str:
    """Format the value or threshold of a check."""
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:,.1f}".removesuffix(".0")


def key_figures(record: VersionRecord, blessing: Blessing) -> Rows:
    """Return the main figures with their names, measured by the gate; top-3 accuracy is from the evaluation."""
    figures = {
        "macro F1": (check_value(blessing, "macro_f1"), "{:.3f}"),
        "top-3 accuracy": (record.metrics.get("top_3_accuracy"), "{:.1%}"),
        "lowest class recall": (check_value(blessing, "class_recall"), "{:.1%}"),
        "calibration error": (check_value(blessing, "calibration_error"), "{:.3f}"),
        "latency per image, one core": (check_value(blessing, "latency_ms"), "{:.1f} ms"),
        "model file": (check_value(blessing, "size_mb"), "{:.1f} MB"),
    }
    return [(style.format(figure), name) for name, (figure, style) in figures.items() if figure is not None]


def check_value(blessing: Blessing, name: str) -> float | None:
    """Return the value of a check, or None if it did not run or has no value."""
    return next((check.value for check in blessing.checks if check.name == name), None)


def changed_classes(blessing: Blessing) -> pd.DataFrame:
    """Return one row per class whose recall differs from the champion's, the largest drop first."""
    rows = pd.DataFrame.from_dict(blessing.detail("class_fall"), orient="index", columns=["champion", "this"])
    rows = rows.astype(float).dropna().assign(change=lambda both: both["this"] - both["champion"])
    return rows[rows["change"] != 0].sort_values("change", kind="stable")


def slice_table(blessing: Blessing) -> pd.DataFrame | None:
    """Return one row per slice: slice, images, accuracy, threshold. None if the blessing holds no figures of slices."""
    rows = [
        {"slice": f"{check.name.removeprefix('slice_')} {short_slice_name(part)}", "threshold": check.threshold}
        | figures
        for check in blessing.checks
        if check.name.startswith("slice_")
        for part, figures in check.detail.items()
    ]
    return pd.DataFrame(rows) if rows else None


def short_slice_name(part: str) -> str:
    """Shorten the name of a family slice to its first class and the number of others."""
    first, *more = part.split("/")
    return f"{first} + {len(more)}" if more else first


def class_counts(record: VersionRecord) -> pd.DataFrame | None:
    """Count the images of each class (rows) by subset and in all (columns)."""
    if record.splits is None:
        return None
    counts = pd.crosstab(record.splits["label"], record.splits["subset"])
    counts = counts[[subset for subset in SUBSETS if subset in counts]]
    return counts.assign(all=counts.sum(axis=1))


def data_facts(record: VersionRecord, change: DataChange | None, held_out: str | None) -> Rows:
    """Describe the data set, what changed since the champion's, its validation, duplicates and near-duplicates."""
    tags = record.facts
    return [
        ("Data set", tags.get("data.md5", NOT_RECORDED)),
        ("Source", hide_folder(public(tags.get("data.source", NOT_RECORDED)))),
        *([] if change is None else [("Since the champion's data", str(change))]),
        *([] if held_out is None else [("Images held out for the champion", held_out)]),
        ("Validation", validation_summary(record.validation)),
        ("Exact duplicates", duplicate_summary(record.manifest)),
        ("Near-duplicates", near_duplicate_summary(record.splits)),
    ]


def validation_summary(validation: dict[str, Any]) -> str:
    """Summarize validation.json: the outcome, and the numbers of images, expectations and warnings."""
    if "expectations" not in validation:
        return NOT_RECORDED
    checked = f"{validation['images']:,} images, {len(validation['expectations'])} expectations"
    warnings = f"{validation['warnings']} warning{'s' * (validation['warnings'] != 1)}"
    return f"{'passed' if validation['success'] else 'failed'}: {checked}, {warnings}"


def unmet_expectations(record: VersionRecord) -> Rows:
    """Return each expectation that the data did not meet, with what was observed."""
    expectations = record.validation.get("expectations", [])
    return [(each["words"], each["observed"]) for each in expectations if not each["success"]]


def duplicate_summary(manifest: pd.DataFrame | None) -> str:
    """Count the images that are exact copies of another."""
    if manifest is None:
        return NOT_RECORDED
    copies = int(manifest["sha256"].duplicated().sum())
    return f"{copies} of {len(manifest):,} images are exact copies of another"


def near_duplicate_summary(splits: pd.DataFrame | None) -> str:
    """Count the images with near-duplicates, and the groups of them that the split kept together."""
    if splits is None:
        return NOT_RECORDED
    sizes = splits["group"].value_counts()
    groups = sizes[sizes > 1]
    return f"images: {groups.sum():,}, groups of them: {len(groups):,}, each kept within one subset"


def lineage_facts(record: VersionRecord) -> Rows:
    """Describe the origin of the model: data, code, params, run, files, weights, device and environment."""
    tags, run = record.facts, record.run.info
    dirty = ", with changes that were not committed" if tags.get("git.dirty") == "true" else ""
    return [
        ("Data", tags.get("data.md5", NOT_RECORDED)),
        ("Code", tags.get("git.commit", NOT_RECORDED) + dirty),
        ("Params", f"sha256 {tags['params.sha256']}" if "params.sha256" in tags else NOT_RECORDED),
        ("MLflow run", f"{run.run_id} ({run.run_name})"),
        ("Model file", f"sha256 {tags['model.sha256']}" if "model.sha256" in tags else NOT_RECORDED),
        ("Initial weights", hide_folder(tags.get("weights", NOT_RECORDED))),
        (
            "Digest of the initial weights",
            f"sha256 {tags['weights.sha256']}" if "weights.sha256" in tags else NOT_RECORDED,
        ),
        ("Device", ", ".join(tags[key] for key in ("device", "processor") if key in tags) or NOT_RECORDED),
        ("Environment", ", ".join(f"{name} {number}" for name, number in record.versions.items()) or NOT_RECORDED),
    ]


def param_rows(record: VersionRecord) -> Rows:
    """Return all params of the run, without credentials, which older runs may have recorded in addresses."""
    return [(key, hide_folder(value)) for key, value in sorted(public_values(record.run.data.params).items())]


def network_facts(record: VersionRecord) -> Rows:
    """Describe the network, from the model card."""
    card = record.card
    if "backbone" not in card:
        return [("Network", NOT_RECORDED)]
    trained = f"{card['trained_parameters']:,} of {card['parameters']:,} parameters, from {card['unfrozen_from']} on"
    return [
        ("Network", f"{card['backbone']}, width {card['alpha']:g}, {card['image_size']} × {card['image_size']} pixels"),
        ("Trained", trained),
        ("Views averaged", str(card.get("averaged_views", 1))),
        ("Dead kernels", dead_kernels(card, record.metrics)),
        ("Silent kernels", silent_kernels(record.metrics)),
    ]


def dead_kernels(card: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Tell the share of depthwise filters whose weights are next to nothing, in float32 and in int8."""
    in_int8 = f", {metrics['dead_kernels_int8']:.1%} in int8" if "dead_kernels_int8" in metrics else ""
    return format_figure(card.get("dead_kernels"), "{:.1%} by their weights") + in_int8


def silent_kernels(metrics: dict[str, Any]) -> str:
    """Tell the shares of depthwise channels that are silent, and on how many images."""
    if "silent_kernels" not in metrics:
        return NOT_RECORDED
    exact, int8 = metrics["silent_kernels"], metrics["silent_kernels_int8"]
    return f"{exact:.1%} by their outputs on {metrics['silent_images']} images, {int8:.1%} in int8"


def confidence_facts(record: VersionRecord, blessing: Blessing) -> Rows:
    """Describe the calibration of the confidence, and the share of images marked unsure."""
    metrics, card = record.metrics, record.card
    return [
        ("Calibration error", format_number(check_value(blessing, "calibration_error"))),
        ("Marked unsure", format_figure(card.get("unsure_below"), "below a confidence of {:.1%}")),
        ("Promised of the others", promised_accuracy(card)),
        ("Coverage", format_figure(metrics.get("coverage"), "{:.1%} of the held-out images")),
        ("Selective accuracy", format_figure(metrics.get("sure_accuracy"), "{:.1%}")),
        ("Temperature", format_figure(card.get("temperature"), "{:.3f}, fitted on validation images")),
    ]


def promised_accuracy(card: dict[str, Any]) -> str:
    """Tell how accurate answers that are not marked unsure are at least."""
    if "sure_accuracy_at_least" not in card:
        return NOT_RECORDED
    return f"at least {card['sure_accuracy_at_least']:.1%} right (95 % bound on {card['validation']['images']} images)"


def format_figure(figure: float | None, template: str) -> str:
    """Insert a figure into a template, or say that it was not recorded."""
    return NOT_RECORDED if figure is None else template.format(figure)


def intended_use(record: VersionRecord) -> list[str]:
    """Return what the model may be used for."""
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


def limitations(record: VersionRecord, blessing: Blessing) -> list[str]:
    """Return what was not tested, and how far the figures can be trusted."""
    sentences = [
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
        sentences.append(f"A class has {span} held-out images: one image more or less is {1 / few:.0%} of its recall.")
    if subset == "validation":
        sentences.append(
            "There is no test subset: the held-out images also chose the best epoch, the temperature and the "
            "confidence below which it is unsure. That flatters its score, its calibration and its sure answers."
        )
    if blessing.champion is None:
        sentences.append("There was no champion to compare with.")
    return sentences
