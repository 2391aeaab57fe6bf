"""Figures of runs."""

from jaxdt.plots.comparing import FinalScores, LearningCurves, TaskPanel, plot_comparison
from jaxdt.plots.figures import new_figure, save_figure
from jaxdt.plots.planning import Expectations, PlanErrors, plot_plan
from jaxdt.plots.training import plot_finetuning, plot_loss, plot_returns


__all__ = [
    "Expectations",
    "FinalScores",
    "LearningCurves",
    "PlanErrors",
    "TaskPanel",
    "new_figure",
    "plot_comparison",
    "plot_finetuning",
    "plot_loss",
    "plot_plan",
    "plot_returns",
    "save_figure",
]
