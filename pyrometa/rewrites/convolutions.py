"""Convolutions as products with patches, where that is less work than what vmap and torch make of them.

A convolution is a linear layer on patches, and a transposed one adds up the patches that such a layer makes: with its
first and second derivatives it is a batched matrix product. That pays where patches take no more memory than the other
side of the layer, as next to an image. Elsewhere a convolution stays what vmap makes of it: one of as many groups as
there are tasks, or if they share the kernel one of all their images. So does one in three dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Numbers = int | Sequence[int]
_Two = tuple[int, int]

_OF_ONE_CHANNEL = 16
"""So many numbers of a patch of one channel are few, however few channels the other side has."""


@dataclass(frozen=True)
class _Layout:
    """Where a kernel is laid on images, height and width: as of ``torch.nn.functional.unfold``."""

    kernel_size: _Two
    dilation: _Two
    padding: _Two
    stride: _Two

    @classmethod
    def of(cls, kernel: Tensor, dilation: Numbers, padding: Numbers, stride: Numbers) -> _Layout:
        """That of a convolution's arguments."""
        dims = kernel.dim() - 2
        return cls(
            kernel_size=_two(kernel.shape[2:], dims, 1),
            dilation=_two(dilation, dims, 1),
            padding=_two(padding, dims, 0),
            stride=_two(stride, dims, 1),
        )

    def positions(self, size: Sequence[int]) -> _Two:
        """How many there are on images of a size."""
        each = zip(size, self.kernel_size, self.dilation, self.padding, self.stride, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in each)
        return height, width

    def covered(self, positions: Sequence[int], more: _Two) -> _Two:
        """The size of images that have so many positions, and some points more."""
        each = zip(positions, self.kernel_size, self.dilation, self.padding, self.stride, more, strict=True)
        height, width = ((n - 1) * s - 2 * p + d * (k - 1) + 1 + m for n, k, d, p, s, m in each)
        return height, width


def _convolution(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: str | Numbers = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> Tensor:
        """As torch's function of the name."""
        zeros = _zeros(padding, weight, dilation, stride)
        if zeros is None or not _is_plain(input, dims, groups):
            return function(input, weight, bias, stride, padding, dilation, groups)
        images, layout = _planes(input), _Layout.of(weight, dilation, zeros, stride)
        positions = layout.positions(images.shape[2:])
        if not _pays(weight, positions):
            return function(input, weight, bias, stride, padding, dilation, groups)
        patches = F.unfold(images, **vars(layout))
        made = _each_times(weight.flatten(1), patches).view(len(input), len(weight), *positions[2 - dims :])
        return _with_bias(made, bias)

    return convolution


def _transposed_convolution(function: Callable[..., Tensor], dims: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Numbers = 1,
        padding: Numbers = 0,
        output_padding: Numbers = 0,
        groups: int = 1,
        dilation: Numbers = 1,
    ) -> Tensor:
        """As torch's function of the name."""
        if not _is_plain(input, dims, groups):
            return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        values, layout = _planes(input), _Layout.of(weight, dilation, padding, stride)
        positions = values.shape[2:]
        size = layout.covered(positions, _two(output_padding, dims, 0))
        if not _pays(weight, positions) or layout.positions(size) != positions:
            return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        patches = _each_times(weight.flatten(1).mT, values.flatten(2))
        made = F.fold(patches, size, **vars(layout))
        return _with_bias(made if dims == 2 else made.squeeze(2), bias)

    return convolution


def _is_plain(input: Tensor, dims: int, groups: int) -> bool:
    return groups == 1 and input.dim() == dims + 2 and input.device.type == "cpu" and input.is_floating_point()


def _zeros(padding: str | Numbers, kernel: Tensor, dilation: Numbers, stride: Numbers) -> Numbers | None:
    """How many zeros are on both sides of images; None where one side has more of them, or torch refuses to say."""
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return 0
    if padding != "same" or set(_spread(stride, kernel.dim() - 2)) != {1}:
        return None
    by = _spread(dilation, kernel.dim() - 2)
    both = [d * (k - 1) for d, k in zip(by, kernel.shape[2:], strict=True)]
    return None if any(n % 2 for n in both) else [n // 2 for n in both]


def _pays(weight: Tensor, positions: Sequence[int]) -> bool:
    """Whether to take a convolution for a product with patches: by sizes alone.

    It pays where a patch has at most as many numbers as a position has channels, or few numbers of one channel. Over
    layers of 1 to 64 channels and 5 to 42 points a side, the forward pass, the gradient and its derivative took 1.4 to
    2.9 times as long by torch's kernels there. Of 21 layers elsewhere 16 were slower on patches, up to five times, and
    the others up to twice as fast, those of two to four channels (one core, a busy machine). The matrix, which the
    product holds for each image, is not to be larger than what comes of it.
    """
    channels, patch = weight.shape[1], weight.shape[1:].numel()
    most = max(len(weight), _OF_ONE_CHANNEL) if channels == 1 else len(weight)
    return channels < patch <= min(most, torch.Size(positions).numel())


def _each_times(matrix: Tensor, columns: Tensor) -> Tensor:
    return torch.bmm(matrix.expand(len(columns), *matrix.shape), columns)


def _planes(images: Tensor) -> Tensor:
    """Sequences as images of height one."""
    return images.unsqueeze(2) if images.dim() == 3 else images


def _spread(value: Numbers, dims: int) -> list[int]:
    """A number for each dimension, of which torch takes a single one, or a list of one, for all."""
    return [value] * dims if isinstance(value, int) else [*value] * (dims // len(value))


def _two(value: Numbers, dims: int, of_height: int) -> _Two:
    """A number for height and one for width; of sequences the one given is for their length."""
    given = _spread(value, dims)
    return (of_height, given[0]) if dims == 1 else (given[0], given[1])


def _with_bias(made: Tensor, bias: Tensor | None) -> Tensor:
    return made if bias is None else made + bias.view(-1, *[1] * (made.dim() - 2))


CONVOLUTIONS: dict[Any, Callable[..., Tensor]] = {
    torch.conv1d: _convolution(torch.conv1d, 1),
    torch.conv2d: _convolution(torch.conv2d, 2),
    torch.conv_transpose1d: _transposed_convolution(torch.conv_transpose1d, 1),
    torch.conv_transpose2d: _transposed_convolution(torch.conv_transpose2d, 2),
}
"""By torch's function, the same of tasks side by side."""
