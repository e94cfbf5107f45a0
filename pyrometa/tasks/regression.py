"""Regression tasks: sinusoids, and the mixture of sinusoids and lines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SineLineTasks", "SinusoidTasks"]

Range = tuple[float, float]


@dataclass(frozen=True)
class SinusoidTasks:
    r"""Sinusoids of random amplitude and phase (Finn et al. 2017).

    ``y = amplitude * sin(x + phase) + noise * e`` with ``e`` standard normal; ``amplitude`` and ``phase`` are uniform,
    once a task, and ``x`` is uniform, once a row. The paper writes ``sin(x - phase)``: as ``x`` is symmetric
    about 0, its tasks are these with ``x`` and ``y`` mirrored.

    ``noise`` scales draws that are always made: a sampler of the same seed without noise gives the same functions at
    the same inputs, which is what a figure shows as the truth.

    Args:
        amplitude: ``(low, high)``.
        phase: ``(low, high)`` in radians.
        x: ``(low, high)`` of the inputs.
        noise: standard deviation.

    Raises:
        ValueError: if a range is not finite or descends, or the noise is negative or not finite.

    Reference:
        Finn, Abbeel, Levine (2017), Model-Agnostic Meta-Learning, https://arxiv.org/abs/1703.03400

    Example:
        >>> from pyrometa.tasks import SinusoidTasks, TaskSampler
        >>> (x, y), (query_x, query_y) = TaskSampler(SinusoidTasks(), shots=5, queries=10, seed=0).sample(25)
        >>> x.shape, y.shape, query_x.shape
        (torch.Size([25, 5, 1]), torch.Size([25, 5, 1]), torch.Size([25, 10, 1]))
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    x: Range = (-5.0, 5.0)
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "x"):
            _check_range(name, getattr(self, name))
        _check_noise(self.noise)

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw tasks and rows of each.

        Args:
            tasks: how many tasks.
            rows: how many rows of each.
            generator: the only source of randomness.

        Returns:
            ``(x, y)``, float32, each of shape ``(tasks, rows, 1)``.
        """
        amplitude = _uniform(self.amplitude, (tasks, 1, 1), generator)
        phase = _uniform(self.phase, (tasks, 1, 1), generator)
        x = _uniform(self.x, (tasks, rows, 1), generator)
        return x, amplitude * (x + phase).sin() + self.noise * _normal(x, generator)


@dataclass(frozen=True)
class SineLineTasks:
    """Sinusoids or lines, each as likely, seen through noise (Finn, Xu, Levine 2018).

    ``y = f(x) + noise * e`` with ``e`` standard normal and ``f(x) = amplitude * sin(x + phase)`` or
    ``f(x) = slope * x + intercept``. The parameters are uniform, once a task, and ``x`` is uniform, once a row. Few
    rows do not tell which of the two a task is: what a posterior over functions should say.

    ``noise`` scales draws that are always made: a sampler of the same seed without noise gives the same functions at
    the same inputs, which is what a figure shows as the truth.

    Args:
        amplitude: ``(low, high)`` of the sinusoids.
        phase: ``(low, high)`` of the sinusoids, in radians.
        slope: ``(low, high)`` of the lines.
        intercept: ``(low, high)`` of the lines.
        x: ``(low, high)`` of the inputs.
        noise: standard deviation.

    Raises:
        ValueError: if a range is not finite or descends, or the noise is negative or not finite.

    Reference:
        Finn, Xu, Levine (2018), Probabilistic Model-Agnostic Meta-Learning, https://arxiv.org/abs/1806.02817

    Example:
        >>> from pyrometa.tasks import SineLineTasks, TaskSampler
        >>> (x, y), query = TaskSampler(SineLineTasks(), shots=5, queries=15, seed=0).sample(4)
        >>> (_, truth), _ = TaskSampler(SineLineTasks(noise=0.0), shots=5, queries=15, seed=0).sample(4)
        >>> (y - truth).std() < 0.5
        tensor(True)
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    slope: Range = (-3.0, 3.0)
    intercept: Range = (-3.0, 3.0)
    x: Range = (-5.0, 5.0)
    noise: float = 0.3

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "slope", "intercept", "x"):
            _check_range(name, getattr(self, name))
        _check_noise(self.noise)

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw tasks and rows of each.

        Args:
            tasks: how many tasks.
            rows: how many rows of each.
            generator: the only source of randomness.

        Returns:
            ``(x, y)``, float32, each of shape ``(tasks, rows, 1)``.
        """
        amplitude, phase, slope, intercept = (
            _uniform(bounds, (tasks, 1, 1), generator)
            for bounds in (self.amplitude, self.phase, self.slope, self.intercept)
        )
        is_sine = torch.randint(2, (tasks, 1, 1), generator=generator, device=generator.device).bool()
        x = _uniform(self.x, (tasks, rows, 1), generator)
        y = torch.where(is_sine, amplitude * (x + phase).sin(), slope * x + intercept)
        return x, y + self.noise * _normal(x, generator)


def _uniform(bounds: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)


def _check_range(name: str, bounds: Range) -> None:
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name} must be a finite (low, high) with low <= high, got {bounds}")


def _check_noise(noise: float) -> None:
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is a standard deviation, finite and at least 0, got {noise}")
