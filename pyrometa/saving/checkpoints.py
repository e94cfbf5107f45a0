"""Write and read checkpoints, and find the newest whole one of a folder."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from safetensors.torch import load

from pyrometa.errors import CheckpointError
from pyrometa.saving.frame import START, Refusal, about, framed, written
from pyrometa.saving.structure import put_together, taken_apart
from pyrometa.saving.whole_files import write_whole

File: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Newest:
    """The newest whole checkpoint of a folder.

    Attributes:
        path: its file.
        state: what it holds.
        refused: why each newer file was refused, the newest first.
    """

    path: Path
    state: Any
    refused: tuple[CheckpointError, ...]


def write(path: File, state: Any, *, kind: str) -> None:
    """Write a checkpoint: one safetensors file, there as a whole or, wherever the process is killed, not at all.

    It is written under a temporary name in its folder, which is made if need be, synced and renamed.

    Args:
        path: the file; one that is there is replaced.
        state: a nest of dictionaries (keyed by text or integers), lists, tuples, text, numbers, booleans, None, dense
            tensors of any dtype, device and strides, and numpy arrays of numbers.
        kind: what it is a checkpoint of.

    Raises:
        TypeError: the state holds something else; the message says where.
        ValueError: what it holds besides tensors and arrays takes over 40 MB.
        OSError: what the system says. In all cases the file is as it was.

    Example:
        >>> import tempfile, torch
        >>> from pyrometa import saving
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saving.write(f"{folder}/a.safetensors", {"at": (3, torch.ones(2, 2).T)}, kind="example")
        ...     saving.read(f"{folder}/a.safetensors", kind="example")
        {'at': (3, tensor([[1., 1.],
                [1., 1.]]))}
    """
    path = Path(path)
    data = framed(kind, *taken_apart(state))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def read(path: File, *, kind: str) -> Any:
    """The state that :func:`write` wrote, equal in types and bits, its tensors on the CPU.

    Raises:
        CheckpointError: the file is none, truncated, altered, of a newer format or of another kind; where it is
            damaged, the newest whole checkpoint beside it is named.
        OSError: what the system says, such as that there is no such file.
    """
    path = Path(path)
    try:
        return _state(path, kind)
    except _Damaged as error:
        raise CheckpointError(f"{error}: {_other(path, kind)}") from None


def newest(folder: File, *, kind: str) -> Newest:
    """The newest whole checkpoint among a folder's ``*.safetensors`` files, by the time at which each was written.

    Raises:
        CheckpointError: there is none; the message says why each file was refused.
    """
    refused: list[CheckpointError] = []
    for path in _newest_first(Path(folder)):
        try:
            return Newest(path, _state(path, kind), tuple(refused))
        except CheckpointError as error:
            refused.append(error)
    reasons = "; ".join(map(str, refused)) or "it has no *.safetensors file"
    raise CheckpointError(f"no whole checkpoint of kind {kind!r} is in {folder}: {reasons}")


class _Damaged(CheckpointError):
    """Refused for what the file itself has become, so that only another one helps."""


def _state(path: Path, kind: str) -> Any:
    data = path.read_bytes()
    return put_together(_told(path, data, kind)["state"], load(data))


def _told(path: Path, data: bytes, kind: str) -> dict[str, Any]:
    try:
        told = about(data)
    except Refusal as refusal:
        if refusal.cure is None:
            raise _Damaged(f"{path} {refusal}") from None
        raise CheckpointError(f"{path} {refusal}: {refusal.cure}") from None
    if told["kind"] != kind:
        raise CheckpointError(f"{path} is a checkpoint of kind {told['kind']!r}: give one of kind {kind!r}")
    return told


def _other(path: Path, kind: str) -> str:
    """The cure for a damaged file: the newest whole one beside it, if there is one."""
    for beside in _newest_first(path.parent):
        with suppress(CheckpointError):
            _told(beside, beside.read_bytes(), kind)
            return f"the newest whole one beside it is {beside}"
    return "no whole one is beside it, so start anew or give another"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"), key=lambda path: (_time(path), path.name), reverse=True)


def _time(path: Path) -> int:
    """When a file was written: as it says itself, since copies lose it, or as the system does."""
    with path.open("rb") as file:
        told = written(file.read(START))
    return path.stat().st_mtime_ns if told is None else told
