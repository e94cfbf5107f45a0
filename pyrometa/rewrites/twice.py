"""Functions that torch differentiates once, but not twice or wrongly so, written so that it can differentiate twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrometa.internals import attention_math, weight_norm
from pyrometa.rewrites.unfolded import unfolded


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """By plain matrix products; the fused kernels, on the CPU and on CUDA, have no second derivative."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = query.new_zeros(attn_mask.shape).masked_fill(~attn_mask, -torch.inf)
    output, weights = attention_math(query, key, value, attn_mask, 0.0, is_causal, **options)
    if not dropout_p:
        return output
    if options.get("enable_gqa"):
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    return F.dropout(weights, dropout_p) @ value


def _multi_head_attention(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """By way of the weights, which torch computes by plain matrix products."""
    given = _MULTI_HEAD.bind(*args, **kwargs)
    asked = given.arguments.get("need_weights", True)
    given.arguments["need_weights"] = True
    output, weights = _weighted(*given.args, **given.kwargs)
    return output, weights if asked else None


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """By its formula; torch's own backward is wrong when it is differentiated."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


_weighted = unfolded(F.multi_head_attention_forward)
_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)

TWICE: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    weight_norm: _weight_norm,
}
"""By function of torch, one of the same values and gradients whose second derivatives are right as well."""


class TwiceDifferentiable(TorchFunctionMode):
    """Within it, what torch differentiates only once is computed so that it can do so twice."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return TWICE.get(func, func)(*args, **(kwargs or {}))
