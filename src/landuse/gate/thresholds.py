"""Checks of a version against fixed thresholds: scores, latency and size."""

import numpy as np

from landuse.gate.blessing import Check
from landuse.gate.scoring import ScoredImages
from landuse.ml.classifier import Classifier, measure_latencies
from landuse.ml.metrics import classification_metrics
from landuse.params import EvaluateParams, PromoteParams


def check_scores(scored: ScoredImages, params: PromoteParams, evaluation: EvaluateParams) -> list[Check]:
    """Check accuracy, macro F1, the recall of the worst class and the calibration error."""
    metrics = classification_metrics(scored.actual, scored.probabilities, evaluation.calibration_bins)
    images, gap = len(scored.table), metrics["calibration_error"]
    worst, recall = scored.recall.idxmin(), scored.recall.min()
    return [
        Check.at_least(
            "accuracy",
            metrics["accuracy"],
            params.min_accuracy,
            f"{metrics['accuracy']:.1%} of {images} held-out images are right, {params.min_accuracy:.1%} must be",
        ),
        Check.at_least(
            "macro_f1",
            metrics["macro_f1"],
            params.min_macro_f1,
            f"macro F1 is {metrics['macro_f1']:.3f}, {params.min_macro_f1:.3f} at least",
        ),
        Check.at_least(
            "class_recall",
            recall,
            params.min_class_recall,
            f"the worst class, {worst}, is recognised in {recall:.1%} of its images, "
            f"{params.min_class_recall:.1%} at least",
        ),
        Check.at_most(
            "calibration_error",
            gap,
            params.max_calibration_error,
            f"confidence and accuracy differ by {gap:.3f} on average, {params.max_calibration_error:.3f} at most",
        ),
    ]


def check_budgets(
    classifier: Classifier, scored: ScoredImages, params: PromoteParams, evaluation: EvaluateParams
) -> list[Check]:
    """Check the median latency of a prediction and the size of the model file."""
    median = float(np.median(measure_latencies(classifier, scored.images, evaluation.latency_runs)))
    size = classifier.megabytes
    time_taken = f"an image takes {median:.1f} ms on one core, {params.max_latency_ms:.1f} ms at most"
    return [
        Check.at_most("latency_ms", median, params.max_latency_ms, time_taken),
        Check.at_most(
            "size_mb", size, params.max_size_mb, f"the model file has {size:.1f} of at most {params.max_size_mb:.1f} MB"
        ),
    ]
