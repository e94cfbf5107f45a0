"""Private names of torch that pyrometa relies on."""

from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, maybe_get_bdim

__all__ = ["get_unwrapped", "is_functorch_wrapped_tensor", "is_of_all", "maybe_get_bdim"]


def is_of_all(value: Tensor) -> bool:
    """Whether a tensor holds a value for each of the tasks that vmap runs."""
    return bool(is_functorch_wrapped_tensor(value))
