"""What part of a program goes into a pickle, and how it comes out again."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyrometa.program.leaves import Leaf


def without_weak_references(tensors: Iterable[Tensor]) -> None:
    """Take ``.unconstrained`` off: it can't be pickled, and Pyro sets it anew whenever a parameter is read."""
    for tensor in tensors:
        vars(tensor).pop("unconstrained", None)


def own(tensors: Iterable[Tensor]) -> None:
    """Move tensors out of shared memory, where the process that they came from would write to them too."""
    for tensor in tensors:
        if tensor.is_shared():
            tensor.data = tensor.data.clone()


class Autoguides:
    """The models of the autoguides among some modules: pickling an autoguide takes it away, from the original too.

    In a pickle it must come after the guides.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        guides = [module for module in modules if isinstance(module, AutoGuide)]
        self._held = [(guide, guide._model, guide.master) for guide in guides]
        for guide, _, _ in self._held:
            if guide.prototype_trace is not None:
                _off_graph(dict(guide.prototype_trace.nodes), set())

    def put_back(self) -> None:
        """Give the originals what they lost."""
        for guide, model, master in self._held:
            vars(guide).update(_model=model, master=master)

    def __reduce__(self) -> Any:
        self.put_back()
        return _with_models, ([(guide, model) for guide, model, _ in self._held],)


def _with_models(pairs: Iterable[tuple[AutoGuide, Any]]) -> None:
    for guide, model in pairs:
        guide._model = model


def _off_graph(value: Any, seen: set[int]) -> Any:
    """The same without the graph that its tensors came from, which can't go into another process."""
    if isinstance(value, Tensor):
        return value if value.is_leaf else value.detach()
    if isinstance(value, list | tuple):
        parts = [_off_graph(part, seen) for part in value]
        return type(value)(parts) if type(value) in (list, tuple) else value
    held = value if isinstance(value, dict) else vars(value) if isinstance(value, Distribution | Transform) else {}
    if id(held) not in seen and not isinstance(value, nn.Module):
        seen.add(id(held))
        held.update({name: _off_graph(part, seen) for name, part in held.items()})
    return value


class _Reached(pickle.Pickler):
    """Notes which modules a pickle would hold, and passes by their tensors."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.modules: set[int] = set()

    def persistent_id(self, value: Any) -> str | None:
        """Tensors need not be written."""
        if isinstance(value, nn.Module):
            self.modules.add(id(value))
        return "tensor" if isinstance(value, Tensor) else None


def check_modules(
    programs: tuple[Callable[..., Any], Callable[..., Any]],
    modules: Iterable[nn.Module],
    leaves: Iterable[Leaf],
    autoguides: Autoguides,
) -> None:
    """Refuse modules that pickle leaves to the other process, as it does with a function and all that it names.

    Args:
        programs: model and guide.
        modules: those that they are or have, which go with them.
        leaves: the program's parameters.
        autoguides: those among the modules.

    Raises:
        PicklingError: naming the parameters that would be lost.
    """
    known = {id(module) for module in modules}
    slots = [(leaf.name, module) for leaf in leaves for module, _ in leaf.slots]
    if all(id(module) in known for _, module in slots):
        return
    reached = _Reached()
    try:
        reached.dump(programs)
    finally:
        autoguides.put_back()
    lost = [name for name, module in slots if id(module) not in reached.modules]
    if lost:
        raise pickle.PicklingError(
            f"{', '.join(map(repr, lost))}: a function of the program has the module from a global variable or a "
            "closure, which does not go with a pickle: make model and guide methods of an nn.Module that holds it"
        )
