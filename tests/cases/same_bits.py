"""Whether nests of containers, numbers, tensors and arrays are the same."""

import struct

import numpy as np
import torch


def same(a, b):
    """Whether two nests are equal in types and bits."""
    if isinstance(a, torch.Tensor):
        return type(b) is torch.Tensor and a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and list(map(type, a)) == list(map(type, b)) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.dtype.str == b.dtype.str and a.shape == b.shape and a.tobytes() == b.tobytes()
    return struct.pack(">d", a) == struct.pack(">d", b) if isinstance(a, float) else a == b


def bits(tensor):
    own = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(own.reshape(-1).view(torch.uint8).tolist())
