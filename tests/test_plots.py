"""The figures show the numbers they were given."""

import subprocess
import sys

import torch
from matplotlib.colors import to_rgba

from pyrometa.diagnostics.uniformity import band
from pyrometa.plots import (
    COLORS,
    adaptation_curves,
    coverage_curve,
    importance_weights,
    null_histogram,
    rank_curves,
    reconstructions,
    told_apart,
)

NAMES = {
    "pooled": "pooled VAE",
    "picked": "pooled VAE, last bias picked by hand",
    "meta": "meta-learned start",
}
CURVES = {
    "pooled": {"0": {"mean": 140.0, "se": 1.5}, "5": {"mean": 139.0, "se": 1.5}, "9": {"mean": 138.0, "se": 1.5}},
    "picked": {"0": {"mean": 140.0, "se": 1.5}, "5": {"mean": 138.5, "se": 1.2}, "9": {"mean": 137.5, "se": 1.1}},
    "meta": {"0": {"mean": 141.0, "se": 1.4}, "5": {"mean": 136.0, "se": 1.3}},
}
TRUST = {
    "pooled": {"k_hat": [0.9, 0.7], "threshold": 0.67},
    "meta": {"k_hat": [0.5, 0.8, 0.4], "threshold": 0.67},
}


def curves():
    return adaptation_curves(CURVES, TRUST, steps=5, title="A finding", note="A verdict")


def test_the_curves_are_the_numbers():
    left, right = curves().axes
    lines = {line.get_label(): line for line in left.lines}
    bands = {tuple(band.get_facecolor()[0][:3]): band for band in left.collections}
    assert len(bands) == 3
    for start, curve in CURVES.items():
        assert list(lines[NAMES[start]].get_ydata()) == [point["mean"] for point in curve.values()]
        y = bands[to_rgba(COLORS[start])[:3]].get_paths()[0].vertices[:, 1]
        assert y.max() == max(point["mean"] + point["se"] for point in curve.values())
        assert y.min() == min(point["mean"] - point["se"] for point in curve.values())
    assert [136.0, 136.0] in [list(line.get_ydata()) for line in left.lines]  # what the pooled VAE is to reach
    shown = {line.get_color(): list(line.get_ydata()) for line in right.lines}
    assert (shown[COLORS["pooled"]], shown[COLORS["meta"]]) == ([0.7, 0.9], [0.4, 0.5, 0.8])
    assert [0.67, 0.67] in shown.values()


def test_the_axes_say_what_and_in_which_units():
    figure = curves()
    left, right = figure.axes
    assert "nats per unseen image" in left.get_ylabel()
    assert "gradient steps" in left.get_xlabel()
    assert "k-hat" in right.get_ylabel()
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("A finding", "A verdict")
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "5", "9"]


def test_each_image_is_in_the_row_of_its_label_and_the_column_of_its_task():
    first, second, gain = torch.zeros(3, 2, 3, 4, 4)
    second[1, 2] = 1.0  # the last image of the last task
    gain[0, 0], gain[1, 0] = 2.0, -2.0
    figure = reconstructions({"a": first, "b": second}, gain=("gain", gain), columns=["one", "two"], title="t")
    axes, bar = figure.axes
    shown = torch.as_tensor(axes.images[0].get_array().data[..., :3])
    above, below = shown[: len(shown) * 2 // 3], shown[len(shown) * 2 // 3 :]
    inked = (above.sum(-1) == 0).nonzero()
    assert len(inked) == 16
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "gain"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["one", "two"]
    low, high = inked.min(0).values - 0.5, inked.max(0).values + 0.5
    assert low[0] < axes.get_yticks()[1] < high[0]
    assert low[1] > axes.get_xticks()[1]
    assert high[1] < shown.shape[1]
    better, worse = ((below[..., c] - below[..., 2 - c] > 0.1).nonzero() for c in (0, 2))
    assert len(better) == len(worse) == 16  # orange, purple
    assert better[:, 1].max() < axes.get_xticks()[0] < worse[:, 1].min()
    assert bar.get_ylabel() == "nats a pixel"
    assert bar.get_ylim() == (-2.0, 2.0)


def test_no_pyplot_state_is_made():
    code = "import sys, pyrometa.plots, pyrometa.cli; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_are_in_units_of_their_mean_largest_first():
    weights = torch.tensor([0.1, 0.6, 0.3])
    line = importance_weights(weights.log(), title="t").axes[0].lines[0]
    assert torch.allclose(torch.as_tensor(line.get_ydata()), torch.tensor([1.8, 0.9, 0.3]))


def test_rank_curves_are_shares_above_uniform():
    ranks = {"mean": torch.tensor([[0, 2], [1, 2], [2, 2]])}
    axes = rank_curves(ranks, draws=2, band=band(3, 2), title="t").axes[0]
    first, second, _ = (torch.as_tensor(line.get_ydata()) for line in axes.lines)
    assert torch.allclose(first.double(), torch.zeros(2).double(), atol=1e-6)
    assert torch.allclose(second.double(), torch.tensor([-1 / 3, -2 / 3]).double(), atol=1e-6)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["95% of uniform ranks", "mean"]


def test_coverage_is_drawn_against_credibility():
    levels = torch.tensor([0.25, 0.5, 0.75])
    axes = coverage_curve(levels, levels.square(), tasks=100, title="a verdict " * 20).axes[0]
    assert torch.equal(torch.as_tensor(axes.lines[0].get_ydata()), levels.square())
    assert all(len(line) < 75 for line in axes.figure.get_suptitle().splitlines())


def test_histograms_hold_every_number():
    first, second = torch.rand(2, 50)
    axes = told_apart(first, second, title="alike").axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 100
    axes = null_histogram(3.0, torch.randn(70), title="calibrated here").axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 70
    assert list(axes.lines[0].get_xdata()) == [3.0, 3.0]
