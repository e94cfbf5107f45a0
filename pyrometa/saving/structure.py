"""A nest as JSON, in which a tensor is the name of one.

Lists, None, booleans, short integers, finite numbers and most text are as in JSON; all else is an object of one tag.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_DICTIONARIES: dict[str, type[dict]] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_PLAIN_INTEGERS = 2**63
_SURROGATES = re.compile("[\ud800-\udfff]")

# What a safetensors file holds under its own name in all versions; the rest goes in as bytes.
_NATIVE = frozenset(
    {
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    }
)


def taken_apart(state: Any) -> tuple[Any, Tensors]:
    """What :func:`put_together` makes a nest from.

    Returns:
        The structure, of which JSON gives back an equal one; and the tensors, contiguous ones of their own on the CPU.

    Raises:
        TypeError: something that is not in a file bit by bit; the message says where.
    """
    tensors: Tensors = {}
    return _apart(state, "", tensors), tensors


def _apart(value: Any, place: str, tensors: Tensors) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind in (int, float, str):
        return _SCALARS[kind](value)
    if kind in (list, tuple):
        parts = [_apart(part, f"{place}/{i}", tensors) for i, part in enumerate(value)]
        return parts if kind is list else {"tuple": parts}
    if kind in _DICTIONARIES.values():
        return {_tag(kind): [_item(key, part, place, tensors) for key, part in value.items()]}
    if isinstance(value, Tensor):
        return _tensor(value, place, tensors)
    if kind is np.ndarray or isinstance(value, np.generic):
        return _array(value, place, tensors)
    raise _refused(place, f"is a {kind.__name__}")


def _tag(kind: type) -> str:
    return next(tag for tag, known in _DICTIONARIES.items() if known is kind)


def _item(key: Any, value: Any, place: str, tensors: Tensors) -> list[Any]:
    if type(key) not in (str, int):
        raise _refused(place, f"has the key {key!r}")
    return [_SCALARS[type(key)](key), _apart(value, f"{place}/{key}", tensors)]


def _integer(value: int) -> Any:
    return value if abs(value) < _PLAIN_INTEGERS else {"int": hex(value)}


def _number(value: float) -> Any:
    return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}


def _text(value: str) -> Any:
    """Text; halves of surrogate pairs by number, as JSON would join them."""
    return {"str": [ord(character) for character in value]} if _SURROGATES.search(value) else value


_SCALARS: dict[type, Callable[[Any], Any]] = {int: _integer, float: _number, str: _text}


def _tensor(value: Tensor, place: str, tensors: Tensors) -> dict[str, Any]:
    if value.layout is not torch.strided or value.is_nested or value.is_quantized or value.is_meta:
        raise _refused(place, f"is a tensor of layout {value.layout}, {value.dtype} on {value.device}")
    own = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if value.dtype in _NATIVE:
        return {"tensor": _added(own, place, tensors)}
    name = _added(own.reshape(-1).view(torch.uint8), place, tensors)
    return {"tensor": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}


def _array(value: Any, place: str, tensors: Tensors) -> dict[str, Any]:
    if value.dtype.hasobject or value.dtype.fields is not None or value.dtype.itemsize == 0:
        raise _refused(place, f"is an array of dtype {value.dtype}")
    data = np.array(value, order="C").reshape(-1).view(np.uint8)
    tag = "array" if isinstance(value, np.ndarray) else "scalar"
    name = _added(torch.from_numpy(data), place, tensors)
    return {tag: name, "dtype": value.dtype.str, "shape": list(value.shape)}


def _added(tensor: Tensor, place: str, tensors: Tensors) -> str:
    """A name for a tensor: its place in the nest, for other readers of the file, and a number that is its own."""
    name = f"{len(tensors)}:{place[1:]}".encode("ascii", "backslashreplace").decode()
    tensors[name] = tensor
    return name


def _refused(place: str, what: str) -> TypeError:
    return TypeError(
        f"{place[1:] or 'the state'} {what}: a checkpoint holds dictionaries (keyed by text or integers), lists, "
        "tuples, text, numbers, booleans, None, dense tensors and arrays of numbers"
    )


def put_together(structure: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The nest that :func:`taken_apart` took apart, equal to it in types and bits."""
    if isinstance(structure, list):
        return [put_together(part, tensors) for part in structure]
    if not isinstance(structure, dict):
        return structure
    tag, content = next(iter(structure.items()))
    if tag in _DICTIONARIES:
        pairs = [(put_together(key, tensors), put_together(part, tensors)) for key, part in content]
        return _DICTIONARIES[tag](dict(pairs))
    if tag == "tuple":
        return tuple(put_together(part, tensors) for part in content)
    if tag == "tensor":
        return _whole_tensor(structure, tensors[content])
    if tag in ("array", "scalar"):
        array = _whole_array(structure, tensors[content])
        return array if tag == "array" else array[()]
    return _UNPACKED[tag](content)


_UNPACKED: dict[str, Callable[[Any], Any]] = {
    "int": lambda digits: int(digits, 16),
    "float": lambda bits: struct.unpack(">d", bytes.fromhex(bits))[0],
    "str": lambda points: "".join(map(chr, points)),
}


def _whole_tensor(structure: Mapping[str, Any], data: Tensor) -> Tensor:
    if "dtype" not in structure:
        return data
    return data.view(getattr(torch, structure["dtype"])).reshape(structure["shape"])


def _whole_array(structure: Mapping[str, Any], data: Tensor) -> Any:
    return data.numpy().view(structure["dtype"]).reshape(structure["shape"])
