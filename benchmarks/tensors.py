"""How much memory the tensors of a computation take."""

import weakref
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Within it, the bytes of all tensors that operations have made and that are alive, and their peak.

    Counted are storages, once each, by their sizes; unlike a process's resident memory it leaves out what an allocator
    keeps, and is exact for programs of any size. Tensors that were there before are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        for storage in _storages((args, kwargs)):
            self._seen.add(storage._cdata)
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if storage._cdata not in self._seen:
                self._seen.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _storages(tree: Any) -> list[UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
