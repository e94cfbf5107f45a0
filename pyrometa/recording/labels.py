"""Values as text that is the same in every process, and digests of it."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from pyrometa.nest import Hashed, Same

_SAY_ALL = (bool, int, float, str, type(None), enum.Enum, torch.Size, torch.dtype, torch.device)


def digest(value: Any) -> str:
    """A short digest of a value that has one text only; what a dictionary holds may be in any order."""
    told = sorted(value.items()) if isinstance(value, Mapping) else value
    return hashlib.sha256(repr(told).encode(errors="backslashreplace")).hexdigest()[:16]


def plain(value: Any) -> Any:
    """A value as a nest of tuples of plain values; what says nothing of its kind, by its class alone.

    Example:
        >>> plain({"a": (1, torch.float32, object())})
        ('dict', ('a', ('tuple', 1, 'torch.float32', 'object')))
    """
    if isinstance(value, Hashed):
        return plain(value.value)
    if isinstance(value, Same):
        return type(value.held).__qualname__
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, _SAY_ALL):
        return repr(value) if isinstance(value, enum.Enum) else value
    if isinstance(value, type):
        return value.__qualname__
    name = type(value).__qualname__
    if isinstance(value, tuple | list):
        return name, *map(plain, value)
    if isinstance(value, Mapping):
        return name, *((plain(key), plain(part)) for key, part in value.items())
    if dataclasses.is_dataclass(value):
        return name, *(plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    return name
