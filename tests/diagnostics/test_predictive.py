"""Scores of predictions, against closed forms."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyrometa.diagnostics import crps, interval_score, log_predictive_density


def test_crps_of_a_normal_prediction():
    """Gneiting and Raftery (2007), equation 21."""
    torch.manual_seed(0)
    values, standard = torch.tensor([-1.0, 0.3, 4.0]).double(), Normal(0.0, 1.0)
    z = (values - 1.0) / 2.0
    expected = 2.0 * (z * (2 * standard.cdf(z) - 1) + 2 * standard.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    draws = 1.0 + 2.0 * torch.randn(200_000, 3).double()
    assert torch.allclose(crps(draws, values), expected, atol=0.02)


def test_crps_is_the_mean_over_pairs_and_unbiased():
    torch.manual_seed(0)
    draws, value = torch.randn(6, 2).double(), torch.randn(2).double()
    pairs = (draws.unsqueeze(0) - draws.unsqueeze(1)).abs().sum((0, 1)) / (6 * 5)
    assert torch.allclose(crps(draws, value), (draws - value).abs().mean(0) - pairs / 2)


@pytest.mark.parametrize("score", [crps, interval_score])
def test_the_true_distribution_scores_best(score):
    torch.manual_seed(0)
    values, draws = torch.randn(4000).double(), torch.randn(200, 4000).double()
    of = {
        (width, shift): score(width * draws + shift, values).mean()
        for width, shift in ((1, 0), (0.5, 0), (2, 0), (1, 1))
    }
    assert min(of, key=of.get) == (1, 0)


def test_the_interval_score_by_hand():
    draws = torch.linspace(0.0, 1.0, 101).double()
    values = torch.tensor([0.5, -0.05, 1.05]).double()
    wanted = [0.8, 0.8 + 10 * 0.15, 0.8 + 10 * 0.15]
    found = interval_score(draws.unsqueeze(1).expand(-1, 3), values, level=0.8)
    assert found.tolist() == pytest.approx(wanted)


def test_the_log_predictive_density_is_a_mixtures():
    logs = torch.tensor([[0.1, -800.0], [0.4, -900.0]]).double().log1p()[:, :1]
    assert log_predictive_density(logs).item() == pytest.approx(math.log((1.1 + 1.4) / 2))
    assert log_predictive_density(torch.tensor([-800.0, -900.0])).item() == pytest.approx(-800 - math.log(2))


def test_bad_input():
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3,\)"):
        crps(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2 draws"):
        crps(torch.zeros(1), torch.tensor(0.0))
    with pytest.raises(ValueError, match="level must be between 0 and 1, got 90"):
        interval_score(torch.zeros(3), torch.tensor(0.0), level=90)
    with pytest.raises(ValueError, match="at least 1 draw"):
        log_predictive_density(torch.tensor(0.0))
