"""Draws of one-dimensional Gaussian processes as regression tasks, and their exact posterior predictive.

The protocol is that of bootstrapping neural processes (Lee et al., 2020) and of transformer neural processes (Nguyen
and Grover, 2022, https://arxiv.org/abs/2207.04179), as their code has it: inputs uniform in [-2, 2]; a length scale
uniform in [0.1, 0.6] and an output scale uniform in [0.1, 1] of each task, and a period uniform in [0.1, 0.5]; noise of
standard deviation 0.02; 3 to 46 context points, and 3 targets or more, fewer than 50 points in all.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NOISE = 0.02
Points = tuple[Tensor, Tensor]  # inputs and outputs, both (tasks, rows)
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # distances, length scale, period to correlations


class Draws(NamedTuple):
    """Tasks of one size; the covariance of all their outputs, the context's first, in float64."""

    context: Points
    target: Points
    covariance: Tensor


def rbf(distance: Tensor, length: Tensor, period: Tensor) -> Tensor:
    return (-0.5 * (distance / length).square()).exp()


def matern(distance: Tensor, length: Tensor, period: Tensor) -> Tensor:
    scaled = math.sqrt(5.0) * distance / length
    return (1 + scaled + scaled.square() / 3) * (-scaled).exp()


def periodic(distance: Tensor, length: Tensor, period: Tensor) -> Tensor:
    return (-2 * ((math.pi * distance / period).sin() / length).square()).exp()


KERNELS: dict[str, Kernel] = {"RBF": rbf, "Matern 5/2": matern, "periodic": periodic}


def draw(
    kernel: Kernel, generator: torch.Generator, tasks: int, rows: int, targets: int, at: Tensor | None = None
) -> Draws:
    """Tasks of so many context points and targets; the targets are ``at`` these inputs, or at random."""
    x = uniform(-2.0, 2.0, (tasks, rows + targets), generator)
    if at is not None:
        x[:, rows:] = at.double()
    length, scale, period = (
        uniform(low, high, (tasks, 1, 1), generator) for low, high in ((0.1, 0.6), (0.1, 1.0), (0.1, 0.5))
    )
    covariance = scale.square() * kernel((x[:, :, None] - x[:, None]).abs(), length, period)
    covariance = covariance + NOISE**2 * torch.eye(rows + targets, dtype=x.dtype)
    white = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x, y = x.float(), (torch.linalg.cholesky(covariance) @ white[..., None])[..., 0].float()
    return Draws((x[:, :rows], y[:, :rows]), (x[:, rows:], y[:, rows:]), covariance)


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def posterior(draws: Draws) -> tuple[Tensor, Tensor]:
    """Mean ``(tasks, targets)`` and covariance of the targets' outputs given the context's, by the true kernel."""
    y = draws.context[1].double()[..., None]
    rows = y.shape[1]
    factor = torch.linalg.cholesky(draws.covariance[:, :rows, :rows])
    across = torch.linalg.solve_triangular(factor, draws.covariance[:, :rows, rows:], upper=False)
    whitened = torch.linalg.solve_triangular(factor, y, upper=False)
    covariance = draws.covariance[:, rows:, rows:] - across.mT @ across
    return (across.mT @ whitened)[..., 0], covariance


def exact_log_densities(draws: Draws) -> tuple[Tensor, Tensor]:
    """Log density a target of each task, ``(tasks,)``: of each target alone, and of all of them together."""
    mean, covariance = posterior(draws)
    y = draws.target[1].double()
    alone = torch.distributions.Normal(mean, covariance.diagonal(dim1=1, dim2=2).sqrt()).log_prob(y).mean(1)
    together = torch.distributions.MultivariateNormal(mean, covariance).log_prob(y) / y.shape[1]
    return alone, together
