"""One call for all small leaves, where torch's optimisers would make one for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Optimizer, RMSprop

_SAME_BITS = frozenset({Adam, AdamW, SGD, RMSprop, Adagrad, Adamax, Adadelta})
"""Optimisers whose ``foreach`` form gives the numbers of the other to the last bit."""

_OTHER_FORMS = ("fused", "differentiable", "capturable")
_FEWEST = 6
"""Leaves that it takes to gain by it; below, the lists cost more than the calls."""

_LARGEST = 2**16
"""Elements of all leaves together up to which it gains: beyond, each operation on all of them is out of the cache."""


@contextmanager
def many_at_once(optimizer: Optimizer) -> Iterator[None]:
    """Within it, a step of the optimiser takes torch's ``foreach`` form where that is faster and gives the same bits.

    It is so for the optimisers of torch on many small leaves on the CPU; on a GPU torch does it by itself. What the
    user has said of ``foreach`` and ``fused`` holds.
    """
    groups = [group for group in optimizer.param_groups if type(optimizer) in _SAME_BITS and _gains(group)]
    for group in groups:
        group["foreach"] = True
    try:
        yield
    finally:
        for group in groups:
            group["foreach"] = None


def _gains(group: Mapping[str, Any]) -> bool:
    leaves = group["params"]
    if len(leaves) < _FEWEST or group.get("foreach", False) is not None or any(map(group.get, _OTHER_FORMS)):
        return False
    if any(map(_is_tensor, group.values())):
        return False
    return sum(leaf.numel() for leaf in leaves) <= _LARGEST and all(leaf.is_cpu for leaf in leaves)


def _is_tensor(option: Any) -> bool:
    """Whether a rate is a tensor, or one of a pair, as ``foreach`` admits in some forms only."""
    return isinstance(option, Tensor) or (isinstance(option, tuple) and any(map(_is_tensor, option)))
