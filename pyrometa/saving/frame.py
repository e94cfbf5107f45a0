"""The bytes of a checkpoint: a safetensors file that says what it is and bears a checksum of all of itself.

Its metadata are ``pyrometa``, a JSON text of format, kind, versions, time and structure, and ``sha256``, of the file's
bytes with these 64 digits as zeros. This holds in every format.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from safetensors.torch import save
from torch import Tensor

FORMAT = 1

_PACKAGES = ("pyrometa", "torch", "pyro-ppl", "numpy", "safetensors")
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_UNKNOWN = "0" * 64
LONGEST = 40_000_000
"""A safetensors file's header, in which each quotation mark takes two bytes, may have 100 million."""

_WRITTEN = re.compile(rb'\\"written\\":([0-9]+),')
START = 4096
"""So many of a checkpoint's first bytes tell when it was written."""


class Refusal(Exception):
    """Why bytes can't be read as a checkpoint.

    Attributes:
        cure: what helps, or None where the bytes are damaged and only others would.
    """

    def __init__(self, message: str, cure: str | None = None) -> None:
        super().__init__(message)
        self.cure = cure


def framed(kind: str, structure: Any, tensors: dict[str, Tensor]) -> bytes:
    """A checkpoint's bytes.

    Raises:
        ValueError: the structure without its tensors is too long for a safetensors file's header.
    """
    told = {"written": time.time_ns(), "format": FORMAT, "kind": kind, "versions": _versions(), "state": structure}
    text = json.dumps(told, allow_nan=False, separators=(",", ":"))
    if len(text) > LONGEST:
        raise ValueError(
            f"what the state holds besides tensors and arrays takes {len(text)} bytes, and {LONGEST} is the most: "
            "hold many numbers in a tensor or an array"
        )
    data = save(tensors, {"pyrometa": text, "sha256": _UNKNOWN})
    found = _digest_in(data)
    return b"".join([data[: found.start(1)], _digest(data, found).encode(), data[found.end(1) :]])


@functools.cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source
        return "not installed"


def about(data: bytes) -> dict[str, Any]:
    """What a checkpoint says of itself, after its checksum was compared.

    Raises:
        Refusal: it is no checkpoint, not whole, altered, or of a format yet to come.
    """
    if data[8:9] not in (b"{", b""):
        raise Refusal("is no checkpoint of pyrometa's")
    _check_length(data, max(_header_end(data), 9))
    found = _digest_in(data)
    if found is None:
        raise Refusal("is no checkpoint of pyrometa's, or was altered")
    if found[1].decode() != _digest(data, found):
        _check_length(data, _end(data))
        raise Refusal("was altered, as its checksum says")
    told = json.loads(_header(data)["__metadata__"]["pyrometa"])
    if told["format"] > FORMAT:
        raise Refusal(f"has format {told['format']}, and this pyrometa reads up to {FORMAT}", "update pyrometa")
    return told


def written(start: bytes) -> int | None:
    """When a checkpoint was written, in nanoseconds since 1970, by its first bytes; None if these do not say."""
    found = _WRITTEN.search(start)
    return int(found[1]) if found else None


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : _header_end(data)])


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _end(data: bytes) -> int:
    """Where a file ends by its header; where that can't be read, at the header's end."""
    end = _header_end(data)
    try:
        ends = [entry["data_offsets"][1] for name, entry in _header(data).items() if name != "__metadata__"]
        return end + max(ends, default=0)
    except (ValueError, LookupError, TypeError):  # it was altered itself
        return end


def _check_length(data: bytes, length: int) -> None:
    if len(data) < length:
        raise Refusal(f"is truncated: it has {len(data)} of {length} bytes")


def _digest_in(data: bytes) -> Any:
    return _DIGEST.search(data, 8, _header_end(data))


def _digest(data: bytes, found: re.Match[bytes]) -> str:
    view = memoryview(data)
    checksum = hashlib.sha256(view[: found.start(1)])
    checksum.update(_UNKNOWN.encode())
    checksum.update(view[found.end(1) :])
    return checksum.hexdigest()
