"""The checks that a version passes or fails by itself."""

import numpy as np

from landuse.gate.blessing import Check
from landuse.gate.scoring import Evidence
from landuse.ml.classifier import Classifier, latencies
from landuse.ml.metrics import scores
from landuse.params import EvaluateParams, PromoteParams


def check_scores(evidence: Evidence, params: PromoteParams, evaluation: EvaluateParams) -> list[Check]:
    """Accuracy, macro F1, calibration, and the recall of the worst class."""
    found = scores(evidence.actual, evidence.probabilities, evaluation.calibration_bins)
    images, gap = len(evidence.table), found["calibration_error"]
    worst, recall = evidence.recall.idxmin(), evidence.recall.min()
    return [
        Check.at_least(
            "accuracy",
            found["accuracy"],
            params.accuracy,
            f"{found['accuracy']:.1%} of {images} held-out images are right, {params.accuracy:.1%} must be",
        ),
        Check.at_least(
            "macro_f1",
            found["macro_f1"],
            params.macro_f1,
            f"macro F1 is {found['macro_f1']:.3f}, {params.macro_f1:.3f} at least",
        ),
        Check.at_least(
            "class_recall",
            recall,
            params.class_recall,
            f"the worst class, {worst}, is recognised in {recall:.1%} of its images, "
            f"{params.class_recall:.1%} at least",
        ),
        Check.at_most(
            "calibration_error",
            gap,
            params.calibration_error,
            f"confidence and accuracy differ by {gap:.3f} on average, {params.calibration_error:.3f} at most",
        ),
    ]


def check_budgets(
    classifier: Classifier, evidence: Evidence, params: PromoteParams, evaluation: EvaluateParams
) -> list[Check]:
    """The time of one prediction and the size of the model file."""
    median = float(np.median(latencies(classifier, evidence.images, evaluation.latency_runs)))
    size = classifier.megabytes
    time_taken = f"an image takes {median:.1f} ms on one core, {params.latency_ms:.1f} ms at most"
    return [
        Check.at_most("latency_ms", median, params.latency_ms, time_taken),
        Check.at_most(
            "size_mb", size, params.size_mb, f"the model file has {size:.1f} of at most {params.size_mb:.1f} MB"
        ),
    ]
