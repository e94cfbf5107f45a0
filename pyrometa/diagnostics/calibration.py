"""Is a classifier as sure as it is right? Numbers of predicted probabilities and of the labels that came."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

__all__ = ["Reliability", "brier_score", "expected_calibration_error", "reliability"]


class Reliability(NamedTuple):
    """Predictions by confidence, in bins of equal width over (0, 1]; all of shape ``(bins,)``.

    Attributes:
        confidence: mean probability of the predicted class; 0 in an empty bin.
        accuracy: share of the predictions that are right; 0 in an empty bin.
        share: share of all predictions that fall in the bin.
    """

    confidence: Tensor
    accuracy: Tensor
    share: Tensor


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    r"""The reliability diagram: accuracy against confidence, :math:`\max_c p_{ic}`, of the predictions in each bin.

    Args:
        probabilities: of each class, shape ``(n, classes)``, rows that sum to 1.
        labels: int64, shape ``(n,)``.
        bins: how many; bin b holds confidences in ``(b / bins, (b + 1) / bins]``.

    Raises:
        TypeError: labels that are not int64, or probabilities that are not floating point.
        ValueError: shapes that do not fit, rows that are no probabilities, labels that name no class, no bins.

    References:
        DeGroot, Fienberg (1983), The comparison and evaluation of forecasters, https://doi.org/10.2307/2987588.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]])
        >>> reliability(p, torch.tensor([0, 0, 1, 0]), bins=2).accuracy  # all four are surer than a half
        tensor([0.0000, 0.7500])
    """
    _check(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, predicted = probabilities.double().max(-1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    members = one_hot(bin_of, bins).to(confidence)  # (n, bins)
    count = members.sum(0)
    right = (predicted == labels).to(confidence)
    means = [values @ members / count.clamp(min=1) for values in (confidence, right)]
    of_confidence, of_right, share = (part.to(probabilities) for part in (*means, count / len(labels)))
    return Reliability(of_confidence, of_right, share)


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    r"""How far confidence and accuracy are apart, on average over predictions.

    .. math:: \text{ECE} = \sum_b \text{share}_b \, |\text{accuracy}_b - \text{confidence}_b|

    A finite sample adds to it: with n predictions of a calibrated classifier that is right with probability p, up to
    about ``0.8 sqrt(bins * p (1 - p) / n)``. Arguments and errors are those of :func:`reliability`.

    Returns:
        Between 0 and 1.

    References:
        Naeini, Cooper, Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian binning,
        https://doi.org/10.1609/aaai.v29i1.9602;
        Guo, Pleiss, Sun, Weinberger (2017), On calibration of modern neural networks, https://arxiv.org/abs/1706.04599.

    Example:
        >>> import torch
        >>> sure = torch.tensor([[1.0, 0.0]]).expand(4, 2)
        >>> expected_calibration_error(sure, torch.tensor([0, 0, 0, 1]))  # sure, and right three times in four
        0.25
    """
    confidence, accuracy, share = (part.double() for part in reliability(probabilities, labels, bins))
    return (share * (accuracy - confidence).abs()).sum().item()


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    r"""The mean squared distance of the probabilities from the label, a proper score.

    .. math:: \frac{1}{n} \sum_i \sum_c (p_{ic} - [y_i = c])^2

    Arguments and errors are those of :func:`reliability`.

    Returns:
        Between 0 and 2.

    References:
        Brier (1950), Verification of forecasts expressed in terms of probability,
        https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2.

    Example:
        >>> import torch
        >>> brier_score(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
        0.5
    """
    _check(probabilities, labels)
    distance = probabilities.double() - one_hot(labels, probabilities.shape[-1])
    return distance.square().sum(-1).mean().item()


def _check(probabilities: Tensor, labels: Tensor) -> None:
    if not probabilities.is_floating_point() or labels.dtype != torch.int64:
        got = f"{probabilities.dtype} and {labels.dtype}"
        raise TypeError(f"probabilities must be floating point and labels int64, got {got}")
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or probabilities.numel() == 0:
        got = f"{tuple(probabilities.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"probabilities and labels must have shapes (n, classes) and (n,), n at least 1, got {got}")
    total = probabilities.double().sum(-1)
    if not (probabilities >= 0).all() or not ((total - 1).abs() < 1e-4).all():
        raise ValueError("each row of probabilities must be finite, at least 0 and sum to 1: give softmax(logits)")
    classes = probabilities.shape[-1]
    if labels.min() < 0 or labels.max() >= classes:
        got = f"{labels.min().item()}..{labels.max().item()}"
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {got}")
