"""Torch's random functions, as functions of standard noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.draws import Kind


def _normal(z: Tensor, mean: Any = 0.0, std: Any = 1.0) -> Tensor:
    standard = isinstance(mean, float | int) and mean == 0 and isinstance(std, float | int) and std == 1
    return z if standard else z * std + mean


def _log_normal(z: Tensor, mean: float = 1.0, std: float = 2.0) -> Tensor:
    return (z * std + mean).exp()


def _uniform(u: Tensor, low: float = 0.0, to: float = 1.0) -> Tensor:
    return low + (to - low) * u


def _exponential(u: Tensor, lambd: float = 1.0) -> Tensor:
    return -torch.log1p(-u.clamp(min=torch.finfo(u.dtype).tiny)) / lambd


def _cauchy(u: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * torch.tan(math.pi * (u - 0.5))


def _geometric(u: Tensor, p: Any) -> Tensor:
    return torch.ceil(torch.log1p(-u) / torch.log1p(-torch.as_tensor(p, dtype=u.dtype))).clamp(min=1.0)


def _bernoulli_in_place(u: Tensor, p: Any = 0.5) -> Tensor:
    return (u < p).to(u.dtype)


IN_PLACE: dict[Any, tuple[Kind, Callable[..., Tensor]]] = {
    torch.Tensor.normal_: ("normal", _normal),
    torch.Tensor.log_normal_: ("normal", _log_normal),
    torch.Tensor.uniform_: ("uniform", _uniform),
    torch.Tensor.exponential_: ("uniform", _exponential),
    torch.Tensor.cauchy_: ("uniform", _cauchy),
    torch.Tensor.geometric_: ("uniform", _geometric),
    torch.Tensor.bernoulli_: ("uniform", _bernoulli_in_place),
}

_Made = tuple[Sequence[int], torch.dtype, torch.device]


def _made_by_size(*size: Any, dtype: torch.dtype | None = None, device: Any = None, **options: Any) -> _Made:
    sizes = options.get("size", size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size)
    return sizes, dtype or torch.get_default_dtype(), torch.device(device or torch.get_default_device())


def _made_like(
    input: Tensor, _p: Any = None, *, dtype: torch.dtype | None = None, device: Any = None, **_: Any
) -> _Made:
    return input.shape, dtype or input.dtype, torch.device(device or input.device)


def _made_by_moments(mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> _Made:
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is not None or not given:
        return _made_by_size(*(() if size is None else (size,)), **options)
    shape = torch.broadcast_shapes(*(x.shape for x in given))
    return shape, given[0].dtype, given[0].device


def _as_drawn(noise: Tensor, *_: Any, **__: Any) -> Tensor:
    return noise.clone()


def _by_moments(z: Tensor, mean: Any, std: Any = 1.0, *_: Any, **__: Any) -> Tensor:
    return z * std + mean


def _made_for_choices(input: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> _Made:
    each = (num_samples,) if replacement or num_samples == 1 else input.shape[-1:]
    return (*input.shape[:-1], *each), input.dtype, input.device


def _made_for_order(n: int, *, device: Any = None, **_: Any) -> _Made:
    return (n,), torch.float64, torch.device(device or torch.get_default_device())


def _bernoulli(u: Tensor, input: Tensor, p: Any = None, **_: Any) -> Tensor:
    return (u < (input if p is None else p)).to(input.dtype)


def _choices(u: Tensor, input: Tensor, num_samples: int, replacement: bool = False, **_: Any) -> Tensor:
    """Indices drawn in proportion to ``input``.

    One, or several that may repeat: where the cumulative weights pass the noise. Several that may not: those that come
    first where each index takes an exponential time at the rate of its weight.
    """
    if not replacement and num_samples > 1:
        return (-torch.log1p(-u) / input).topk(num_samples, largest=False).indices
    below = input.cumsum(-1)
    index = torch.searchsorted(below, u * below[..., -1:], right=True)
    return torch.minimum(index, (below < below[..., -1:]).sum(-1, keepdim=True))


def _order(u: Tensor, n: int, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    return u.argsort().to(dtype or torch.int64)


OUT_OF_PLACE: dict[Any, tuple[Kind, Callable[..., _Made], Callable[..., Tensor]]] = {
    torch.randn: ("normal", _made_by_size, _as_drawn),
    torch.rand: ("uniform", _made_by_size, _as_drawn),
    torch.randn_like: ("normal", _made_like, _as_drawn),
    torch.rand_like: ("uniform", _made_like, _as_drawn),
    torch.normal: ("normal", _made_by_moments, _by_moments),
    torch.bernoulli: ("uniform", _made_like, _bernoulli),
    torch.Tensor.bernoulli: ("uniform", _made_like, _bernoulli),
    torch.multinomial: ("uniform", _made_for_choices, _choices),
    torch.Tensor.multinomial: ("uniform", _made_for_choices, _choices),
    torch.randperm: ("uniform", _made_for_order, _order),
}


RANDOM = IN_PLACE.keys() | OUT_OF_PLACE.keys()
