"""Calibration of classifiers: by hand, by another library, and of exact, over- and under-confident predictors."""

import pytest
import torch
from sklearn.metrics import brier_score_loss

from pyrometa.diagnostics import brier_score, expected_calibration_error, reliability

N, BINS = 20_000, 15


@pytest.fixture
def drawn():
    """Probabilities of four classes, and labels that follow them."""
    p = torch.distributions.Dirichlet(torch.full((4,), 0.7, dtype=torch.double)).sample((N,))
    return p, torch.multinomial(p, 1).squeeze(1)


def tempered(p, power):
    p = p**power
    return p / p.sum(-1, keepdim=True)


def gap(p, y):
    """Accuracy less confidence, over all predictions."""
    confidence, accuracy, share = reliability(p, y, BINS)
    return (share * (accuracy - confidence)).sum().item()


def test_an_exact_predictor_has_the_error_of_a_finite_sample_only(drawn):
    p, y = drawn
    right = p.amax(1).mean()
    bound = 0.8 * (BINS * right * (1 - right) / N) ** 0.5
    assert expected_calibration_error(p, y, BINS) < 1.5 * bound < 0.02
    assert abs(gap(p, y)) < 4 * (right * (1 - right) / N) ** 0.5


@pytest.mark.parametrize(("power", "sign"), [(3.0, -1), (0.4, 1)], ids=["over-confident", "under-confident"])
def test_a_predictor_that_is_too_sure_or_not_sure_enough_is_found(drawn, power, sign):
    p, y = drawn
    wrong = tempered(p, power)
    confidence, accuracy = wrong.amax(1), p.amax(1)  # what it says, and the chance that it is right
    expected = (accuracy - confidence).mean().item()
    assert sign * expected > 0.08
    assert gap(wrong, y) == pytest.approx(expected, abs=0.015)
    assert expected_calibration_error(wrong, y, BINS) == pytest.approx(abs(expected), abs=0.02)
    assert brier_score(wrong, y) > brier_score(p, y)  # the score is proper


def test_by_hand_with_two_bins():
    p = torch.tensor([[0.4, 0.3, 0.3], [0.5, 0.2, 0.3], [0.1, 0.7, 0.2], [0.0, 0.0, 1.0]], dtype=torch.double)
    y = torch.tensor([0, 1, 1, 2])
    confidence, accuracy, share = reliability(p, y, bins=2)
    torch.testing.assert_close(confidence, torch.tensor([0.45, 0.85], dtype=torch.double))
    assert accuracy.tolist() == [0.5, 1.0]
    assert share.tolist() == [0.5, 0.5]
    assert expected_calibration_error(p, y, bins=2) == pytest.approx(0.5 * 0.05 + 0.5 * 0.15)
    by_hand = [0.36 + 0.09 + 0.09, 0.25 + 0.64 + 0.09, 0.01 + 0.09 + 0.04, 0.0]
    assert brier_score(p, y) == pytest.approx(sum(by_hand) / 4)


def test_an_empty_bin_counts_for_nothing():
    p, y = torch.tensor([[0.0, 1.0]]).expand(8, 2), torch.tensor([1] * 6 + [0] * 2)
    diagram = reliability(p, y, bins=5)
    assert diagram.share.tolist() == [0, 0, 0, 0, 1]
    assert diagram.accuracy.tolist() == [0, 0, 0, 0, 0.75]
    assert expected_calibration_error(p, y, bins=5) == 0.25


def test_the_brier_score_agrees_with_scikit_learn():
    p = torch.rand(200, dtype=torch.double)
    y = torch.bernoulli(p).long()
    # Two classes: its binary score counts each pair once, ours both.
    assert brier_score(torch.stack([1 - p, p], 1), y) == pytest.approx(2 * brier_score_loss(y.numpy(), p.numpy()))


@pytest.mark.parametrize(
    ("p", "y", "error", "message"),
    [
        (torch.tensor([[1, 0]]), torch.tensor([0]), TypeError, "floating point"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0.0]), TypeError, "int64"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), ValueError, "shapes"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]), ValueError, "shapes"),
        (torch.empty(0, 3), torch.empty(0, dtype=torch.long), ValueError, "n at least 1"),
        (torch.tensor([[2.0, 1.0]]), torch.tensor([0]), ValueError, "softmax"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), ValueError, "softmax"),
        (torch.tensor([[torch.nan, 0.5]]), torch.tensor([0]), ValueError, "finite"),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([2]), ValueError, r"0\.\.1, got 2"),
    ],
)
def test_bad_input_is_refused(p, y, error, message):
    for function in (reliability, expected_calibration_error, brier_score):
        with pytest.raises(error, match=message):
            function(p, y)


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        reliability(torch.tensor([[0.5, 0.5]]), torch.tensor([0]), bins=0)
