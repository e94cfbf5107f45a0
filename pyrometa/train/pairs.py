"""A meta-batch as whoever gives it has it."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch.utils.data import DataLoader, default_collate

from pyrometa import nest

Pair: TypeAlias = tuple[Any, Any]
"""Support and query as ``meta.step`` takes them; the query is None to score the support set."""


def pair(batch: Any) -> Pair:
    """A MetaBatch, a (support, query) pair, or support alone.

    Raises:
        TypeError: a tuple of another length.
    """
    if hasattr(batch, "support") and hasattr(batch, "query"):
        return batch.support, batch.query
    if not isinstance(batch, tuple) or nest.is_named(batch):
        return batch, None
    if len(batch) != 2:
        raise TypeError(
            f"a meta-batch is a tuple of {len(batch)}: give (support, query), or (support, None) to score the support "
            "set; several arguments of the model are a tuple within it"
        )
    return batch


def collated(source: Any, batch: Any) -> Any:
    """What a DataLoader gives, with the tuples that torch's own collation has made lists of."""
    if isinstance(source, DataLoader) and source.collate_fn is default_collate:
        batch = _as_tuples(batch)
        return batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch
    return batch


def _as_tuples(batch: Any) -> Any:
    return tuple(map(_as_tuples, batch)) if isinstance(batch, list) else batch


def task_count(support: Any) -> int:
    """The number of tasks of a meta-batch, by its support sets."""
    return len(support) if isinstance(support, list) else len(nest.tensors(support)[0])
