"""Digit tasks: one class of images, seen through one rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Angles", "DigitTasks", "check_angles", "check_images", "rotate"]

Angles = tuple[float, float]


@dataclass(frozen=True, eq=False)
class DigitTasks:
    """A family of tasks: a task is one class of images, all rotated by one angle.

    A draw picks for each task a class (each as likely), an angle (uniform in the range) and distinct images.

    Args:
        images: square images in [0, 1], shape ``(n, size, size)`` or ``(n, channels, size, size)``.
        labels: their classes, integers, shape ``(n,)``.
        index: the images that the family may draw, indices into the first two, shape ``(m,)``.
        angles: ``(low, high)``, the range of rotations in degrees, counter-clockwise; equal for a fixed one.

    Raises:
        TypeError: if the images are not floating point, or the labels or the index not int64.
        ValueError: if a shape is wrong, pixels leave [0, 1], the index is empty, repeats or is out of range,
            or the angles are not finite, descend or span more than 360 degrees.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import DigitTasks, load_images
        >>> data = load_images("digits")
        >>> family = DigitTasks(data.train_x, data.train_y, torch.arange(1000), angles=(-30.0, 30.0))
        >>> family.draw(4, 20, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 20, 784])
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    angles: Angles

    def __post_init__(self) -> None:
        check_images(self.images, self.labels)
        _check_index(self.index, len(self.images))
        check_angles("angles", self.angles)

    @property
    def classes(self) -> list[int]:
        """The classes of which the family has images, ascending."""
        return self.labels[self.index].unique().tolist()

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        """Draw tasks and distinct images of each.

        Args:
            tasks: how many tasks.
            rows: how many images of each.
            generator: the only source of randomness.

        Returns:
            flattened images in [0, 1], shape ``(tasks, rows, size * size)``, times the channels if there are any.

        Raises:
            ValueError: if a class has fewer than ``rows`` images.
        """
        members, present = self._members
        smallest = int(present.sum(1).min())
        if rows > smallest:
            raise ValueError(f"a task of {rows} images needs as many of each class: the smallest has {smallest}")
        classes = torch.randint(len(members), (tasks,), generator=generator, device=generator.device)
        low, high = self.angles
        turns = torch.rand(tasks, generator=generator, device=generator.device, dtype=torch.float64)
        angles = low + (high - low) * turns
        chosen = torch.multinomial(present[classes], rows, generator=generator)
        images = self.images[members[classes].gather(1, chosen)]
        return rotate(images.flatten(1, -3), angles).reshape(tasks, rows, -1)

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """The index by class, padded, shape ``(classes, longest)``; and 1.0 where it is not padding."""
        labels = self.labels[self.index]
        by_class = [self.index[labels == label] for label in labels.unique()]
        members = pad_sequence(by_class, batch_first=True)
        sizes = torch.tensor([len(rows) for rows in by_class])
        return members, (torch.arange(members.shape[1]) < sizes[:, None]).float()


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each task's images about their centre by the task's angle, bilinearly, filling with 0.

    Args:
        images: square images in [0, 1], shape ``(tasks, rows, size, size)``.
        degrees: counter-clockwise, shape ``(tasks,)``; 90 equals ``torch.rot90(images, dims=(-2, -1))``.

    Returns:
        images in [0, 1] of the same shape.
    """
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    zero = torch.zeros_like(cos)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).reshape(-1, 2, 3).to(images)
    grid = affine_grid(matrix, list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="zeros", align_corners=False).clamp(0, 1)


def check_images(images: Tensor, labels: Tensor) -> None:
    """Raise unless these are square images in [0, 1] with int64 labels, one an image."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}: divide bytes by 255")
    if images.ndim not in (3, 4) or images.shape[-1] != images.shape[-2]:
        got = tuple(images.shape)
        raise ValueError(f"images must have shape (n, channels, size, size), or shape (n, size, size), got {got}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must have shape ({len(images)},), one an image, got {tuple(labels.shape)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError("images must be finite and lie in [0, 1]")


def _check_index(index: Tensor, count: int) -> None:
    if index.dtype != torch.int64:
        raise TypeError(f"index must be int64, got {index.dtype}")
    if index.ndim != 1 or len(index) == 0:
        raise ValueError(f"index must have shape (m,) with m at least 1, got {tuple(index.shape)}")
    if index.min() < 0 or index.max() >= count:
        raise ValueError(f"index must lie in 0..{count - 1}, got {index.min().item()}..{index.max().item()}")
    if len(index.unique()) != len(index):
        raise ValueError("index names an image twice: support and query could share it")


def check_angles(name: str, angles: Angles) -> None:
    """Raise unless ``angles`` is an ascending range within one turn."""
    low, high = angles
    if not (math.isfinite(low) and math.isfinite(high) and low <= high <= low + 360):
        raise ValueError(f"{name} must be (low, high) in degrees with low <= high <= low + 360, got {angles}")
