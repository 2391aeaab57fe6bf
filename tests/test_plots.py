"""What figures show, looked at before they are drawn."""

import numpy as np
import pytest

from jaxdt import plots


@pytest.fixture
def drawn(monkeypatch):
    """The figures that would have been saved."""
    figures = []
    for module in (plots.training, plots.comparing):
        monkeypatch.setattr(module, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def losses(*lines):
    return [{"step": step, "loss": loss} for step, loss in lines]


def test_before_there_is_a_loss_there_is_no_curve(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", [], [{"step": 20}])
    assert not drawn


def test_a_last_line_of_few_updates_is_no_spike(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", losses((100, 1.0), (200, 0.5), (201, 9.0)), [])
    plots.plot_loss(tmp_path / "loss.png", losses((100, 1.0), (200, 0.5), (260, 0.4)), [])
    assert [figure.axes[0].lines[0].get_xdata().tolist() for figure in drawn] == [[100, 200], [100, 200, 260]]


def test_losses_below_0_are_drawn_too(drawn, tmp_path):
    plots.plot_loss(tmp_path / "loss.png", losses((1, 1.0), (2, -0.5)), [])
    plots.plot_loss(tmp_path / "loss.png", losses((1, 0.4), (2, 0.15)), [])
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["linear", "log"]
    drawn[1].draw_without_rendering()
    labels = [label.get_text() for label in drawn[1].axes[0].yaxis.get_minorticklabels()]
    assert "0.2" in labels


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
