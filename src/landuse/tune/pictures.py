"""Pictures of a study: which values go with which score, and which of them matter."""

import warnings
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from optuna.trial import TrialState

SIZE = (11, 5)


def draw(study: optuna.Study, folder: Path) -> None:
    """Write parallel_coordinates.png, and importances.png where the trials that came to their end differ in score.

    Where they do not, no importances.png is left that another study may have drawn.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcdefaults()  # whatever a matplotlibrc of the user says; Optuna draws in a style of its own
    from optuna.visualization.matplotlib import plot_parallel_coordinate, plot_param_importances

    importances = folder / "importances.png"
    importances.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(plot_parallel_coordinate(study), folder / "parallel_coordinates.png")
        if len({trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}) > 1:
            save(plot_param_importances(study), importances)


def save(axes: Axes, path: Path) -> None:
    """The figure that the axes belong to, as a file."""
    figure = axes.get_figure()
    figure.set_size_inches(*SIZE)
    figure.savefig(path, dpi=110, bbox_inches="tight")
