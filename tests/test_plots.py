"""What figures show, looked at before they are drawn."""

import itertools

import numpy as np
import pytest

from jaxdt import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved."""
    figures = []
    for module in (plots.training, plots.comparing, plots.planning):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def losses(*lines):
    return [{"step": step, "loss": loss} for step, loss in lines]


def evaluation(step, target, mean, std=1.0, **also):
    return {"step": step, "target": target, "return_mean": mean, "return_std": std, "returns": [mean, mean], **also}


def labels_of(axis):
    """Of the ticks between the axis's ends."""
    low, high = sorted(axis.get_view_interval())
    ticks = [(axis.get_majorticklocs(), axis.get_major_formatter()), (axis.get_minorticklocs(), axis.minor.formatter)]
    named = [pair for at, formatter in ticks for pair in zip(at, formatter.format_ticks(at), strict=True)]
    return [label for value, label in named if label and low <= value <= high]


def test_before_there_is_a_loss_there_is_no_curve(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", [], [{"step": 20}])
    assert not drawn


def test_a_last_line_of_few_updates_is_no_spike(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", losses((100, 1.0), (200, 0.5), (201, 9.0)), [])
    plots.plot_loss(tmp_path / "loss.png", losses((100, 1.0), (200, 0.5), (260, 0.4)), [])
    assert [figure.axes[0].lines[0].get_xdata().tolist() for figure in drawn] == [[100, 200], [100, 200, 260]]


def test_losses_below_0_are_drawn_too(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", losses((1, 1.0), (2, -0.5)), [])
    plots.plot_loss(tmp_path / "loss.png", losses((1, 0.9), (2, 0.05)), [])
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["linear", "log"]
    assert {"0.1", "0.5"} <= set(labels_of(drawn[1].axes[0].yaxis))


def test_an_axis_always_has_numbers(drawn, tmp_path):
    ratios = (1.0, 1.02, 1.3, 1.63, 2.2, 4.0, 7.0, 9.9, 10.1, 30.0, 1e3, 1e7)
    for low, ratio in itertools.product((3e-4, 0.24, 0.31, 1.0, 610.0), ratios):
        plots.plot_loss(tmp_path / "loss.png", losses((100, low * ratio), (200, low)), [])
    for low, high in ((-3.0, -2.9), (0.0, 1.0), (100.0, 500.0), (8.9, 9.0), (500.0, 500.0)):
        reached = [evaluation(1, low, low), evaluation(1, high, high)]
        plots.plot_returns(tmp_path / "a.png", reached, np.array([low, high]), "")
        plots.plot_returns(tmp_path / "a.png", [evaluation(1, None, high)], np.array([low, high]), "")
        tuned = [evaluation(i, high, low, round=i, environment_steps=i) for i in range(2)]
        plots.plot_finetuning(tmp_path / "a.png", [[]], [tuned], "")
        curves = [plots.LearningCurves("a", np.array([1, 2]), np.array([[low, high]]))]
        finals = [plots.FinalScores("a", np.array([low, high]), high, None)]
        plots.plot_comparison([tmp_path / "a.png"], ["a"], [plots.TaskPanel("", curves, low, high)], finals, "")
    methods = {"interquartile mean, 95 % interval, runs"}  # its other axis names them
    axes = [each for figure in drawn for each in figure.axes if each.get_visible()]
    axes = [axis for each in axes for axis in (each.xaxis, each.yaxis)[: 1 if each.get_title() in methods else 2]]
    assert [labels for axis in axes if len(labels := labels_of(axis)) < 2] == []


def test_what_is_counted_is_counted_in_whole_numbers(drawn, tmp_path):
    data = np.linspace(0, 100, 60)
    plots.plot_returns(tmp_path / "a.png", [evaluation(1, None, 50.0)], data, "")
    plots.plot_loss(tmp_path / "a.png", losses((1, 1.0), (2, 0.5)), [])
    for axis in (drawn[0].axes[0].yaxis, drawn[1].axes[0].xaxis):
        assert all(value == round(value) for value in axis.get_majorticklocs())


def test_a_legend_hides_nothing_and_its_rows_are_even(drawn, tmp_path):
    steps = np.array([10, 20])
    names = ["bc-corl best_fraction=0.1", "iql normalize_states=True"]
    curves = [plots.LearningCurves(name, steps, np.array([[1.0, 2.0]] * 3)) for name in names]
    panels = [plots.TaskPanel("task", curves, 1.0, 9.0)]
    finals = [plots.FinalScores(names[0], np.array([2.0, 4.0, 9.0]), 5.0, (2.0, 9.0))]
    plots.plot_comparison([tmp_path / "a.png"], names, panels, finals, "D4RL score")
    plots.plot_returns(tmp_path / "a.png", [evaluation(1, None, 50.0)], np.array([1.0, 50.0, 50.0]), "")
    plots.plot_returns(tmp_path / "a.png", [evaluation(1, 50.0, 50.0)], np.array([1.0, 50.0, 50.0]), "")
    tuned = [evaluation(i, 5.0, 4.0, round=i, environment_steps=i) for i in range(2)]
    plots.plot_finetuning(tmp_path / "a.png", [[]] * 3, [tuned] * 3, "")
    assert not [axes for figure in drawn for axes in figure.axes if axes.get_legend()]
    compared, *_, finetuned = (figure.legends[0] for figure in drawn)
    assert "95 % interval over seeds" in [text.get_text() for text in compared.texts]
    assert compared._ncols == 3  # of five
    assert "evaluation (mean of 3 seeds, 95 % interval)" in [text.get_text() for text in finetuned.texts]


def test_held_out_episodes_have_a_curve_beside_the_loss_and_a_panel_of_action_errors(drawn, tmp_path):
    held_out = {"validation_loss": 0.6, "validation_action_error": 0.25}
    plots.plot_loss(tmp_path / "loss.png", [line | held_out for line in losses((1, 1.0), (2, 0.5))], [{"step": 2}])
    plots.plot_loss(tmp_path / "loss.png", [{"step": 1, "loss": 1.0, "validation_action_error": 0.25}], [])
    (loss, error), (loss_alone, _) = drawn[0].axes, drawn[1].axes
    assert [line.get_ydata().tolist() for line in loss.lines[:2]] == [[1.0, 0.5], [0.6, 0.6]]
    assert error.lines[0].get_ydata().tolist() == [0.25, 0.25]
    assert len(loss_alone.lines) == 1


def test_curves_of_a_comparison_are_means_with_intervals_from_three_seeds_on(drawn, tmp_path):
    steps = np.array([10, 20])
    three = plots.LearningCurves("three", steps, np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 9.0]]))
    two = plots.LearningCurves("two", 2 * steps, np.array([[1.0, 2.0], [2.0, 4.0]]))
    panels = [plots.TaskPanel("task", [three, two], 1.0, 9.0)]
    finals = [plots.FinalScores("three", np.array([2.0, 4.0, 9.0]), 5.0, (2.0, 9.0))]
    plots.plot_comparison([tmp_path / "a.png", tmp_path / "a.pdf"], ["three", "two"], panels, finals, "D4RL score")
    figure, again = drawn
    assert figure is again
    axes, final = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [50, 100]  # of other totals: shares of them
    assert axes.lines[0].get_ydata().tolist() == [2.0, 5.0]
    assert len(axes.collections) == 1
    assert final.lines[1].get_xdata().tolist() == [2.0, 9.0]
    assert [text.get_text() for text in figure.legends[0].texts][:2] == ["three", "two"]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_equal_figures_are_equal_files_of_the_kind_asked_for(tmp_path, monkeypatch, suffix, magic):
    path, drawn = tmp_path / f"loss.{suffix}", []
    for epoch in ("0", "86400"):  # what matplotlib takes for the time of writing
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        plots.plot_loss(path, losses((1, 1.0), (2, 0.5)), [{"step": 2}])
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(magic)
