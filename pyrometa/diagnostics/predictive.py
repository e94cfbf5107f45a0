"""Proper scores of predictions of real numbers, from draws of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["crps", "interval_score", "log_predictive_density"]


def interval_score(draws: Tensor, values: Tensor, level: float = 0.9) -> Tensor:
    r"""How good central intervals are: their width, and a fine for what falls outside.

    .. math:: (u - l) + \frac{2}{\alpha} \big((l - y)_+ + (y - u)_+\big), \qquad \alpha = 1 - \text{level}

    with l and u the quantiles :math:`\alpha / 2` and :math:`1 - \alpha / 2` of the draws. Smaller is better, and in
    expectation nothing is better than the true quantiles.

    Args:
        draws: predictions, shape ``(draws, *batch)``.
        values: y, what came, shape ``batch``.
        level: what share of the predictions an interval holds, between 0 and 1.

    Returns:
        shape ``batch``, in the unit of the values.

    Raises:
        ValueError: shapes that do not fit, or a level out of range.

    References:
        Gneiting, Raftery (2007), Strictly proper scoring rules, prediction, and estimation,
        https://doi.org/10.1198/016214506000001437.

    Example:
        >>> import torch
        >>> draws = torch.linspace(0.0, 1.0, 101)
        >>> interval_score(draws, torch.tensor(0.5)), interval_score(draws, torch.tensor(1.05))
        (tensor(0.9000), tensor(2.9000))
    """
    _check(draws, values)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    alpha = 1 - level
    lower, upper = torch.quantile(draws, draws.new_tensor([alpha / 2, 1 - alpha / 2]), dim=0)
    outside = (lower - values).clamp(min=0) + (values - upper).clamp(min=0)
    return upper - lower + 2 / alpha * outside


def crps(draws: Tensor, values: Tensor) -> Tensor:
    r"""The continuous ranked probability score, a proper score that is an absolute error if a prediction is a point.

    .. math::
        \frac{1}{S} \sum_s |y_s - y| - \frac{1}{2 S (S - 1)} \sum_{s, s'} |y_s - y_{s'}|

    The second term is the unbiased one, so that few draws are no advantage. Smaller is better. Arguments and errors are
    those of :func:`interval_score`, with at least 2 draws.

    Returns:
        shape ``batch``, in the unit of the values.

    References:
        Gneiting, Raftery (2007), Strictly proper scoring rules, prediction, and estimation,
        https://doi.org/10.1198/016214506000001437;
        Zamo, Naveau (2018), Estimation of the continuous ranked probability score with limited information,
        https://doi.org/10.1007/s11004-017-9709-7.

    Example:
        >>> import torch
        >>> crps(torch.tensor([1.0, 3.0]), torch.tensor(2.0)), crps(torch.tensor([2.0, 2.0]), torch.tensor(5.0))
        (tensor(0.), tensor(3.))
    """
    _check(draws, values)
    count = len(draws)
    if count < 2:
        raise ValueError("crps needs at least 2 draws, got 1")
    ascending = draws.sort(0).values
    weights = (2 * torch.arange(count, device=draws.device) - (count - 1)) / (count * (count - 1))
    return (draws - values).abs().mean(0) - torch.tensordot(weights.to(draws), ascending, 1)


def log_predictive_density(log_probs: Tensor) -> Tensor:
    r"""The log density of held-out data under the mixture of all draws of a posterior.

    .. math:: \log \frac{1}{S} \sum_s p(y \mid \theta_s)

    Args:
        log_probs: of the data under each draw, shape ``(draws, *batch)``.

    Returns:
        shape ``batch``, in nats; larger is better.

    Raises:
        ValueError: no draws.

    Example:
        >>> import torch
        >>> log_predictive_density(torch.tensor([[0.0], [0.0]]))
        tensor([0.])
    """
    if log_probs.ndim == 0 or len(log_probs) == 0:
        raise ValueError(f"log_probs must have shape (draws, ...), with at least 1 draw, got {tuple(log_probs.shape)}")
    return log_probs.logsumexp(0) - math.log(len(log_probs))


def _check(draws: Tensor, values: Tensor) -> None:
    if draws.ndim == 0 or draws.shape[1:] != values.shape or len(draws) == 0:
        raise ValueError(
            f"draws must have shape (draws, *batch), and values batch, got {tuple(draws.shape)} and "
            f"{tuple(values.shape)}"
        )
