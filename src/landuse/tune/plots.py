"""Plots of a study: how values and scores relate, and which parameters matter."""

import warnings
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from optuna.trial import TrialState

SIZE = (11, 5)


def plot_study(study: optuna.Study, folder: Path) -> None:
    """Write parallel_coordinates.png, and importances.png if the completed trials differ in score.

    Otherwise removes an importances.png that another study may have left.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcdefaults()  # ignore the user's matplotlibrc; Optuna has its own style
    from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_param_importances

    importances = folder / "importances.png"
    importances.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(plot_parallel_coordinate(study), folder / "parallel_coordinates.png")
        if len({trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}) > 1:
            save(plot_param_importances(study), importances)


def save(axes: Axes, path: Path) -> None:
    """Save the figure of the axes."""
    figure = axes.get_figure(root=True)
    if figure:
        figure.set_size_inches(*SIZE)
        figure.savefig(path, dpi=110, bbox_inches="tight")
