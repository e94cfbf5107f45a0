"""What of a program goes into a pickle, and how it comes out again."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyro
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyrometa.program.guide_draws import GuideDraws
from pyrometa.program.leaves import Leaf

if TYPE_CHECKING:
    from pyrometa.program.program import Program

_MADE_ANEW = ("_loss", "_score", "_tapes", "_row_plates")


def state_of(program: Program) -> dict[str, Any]:
    """The attributes of a program, and what the param store holds of it.

    Raises:
        PicklingError: a function of the program has a module with parameters from elsewhere.
    """
    autoguides = _Autoguides(module for module in program.modules() if isinstance(module, AutoGuide))
    _check_modules(program, autoguides)
    names = {id(leaf.tensor): name for name, leaf in program.leaves.items()}
    without_weak_references(leaf.tensor for leaf in program.leaves.values())
    kept = {name: value for name, value in vars(program).items() if name not in _MADE_ANEW}
    return {
        **kept,
        "guide_draws": _renamed(program.guide_draws, names),
        "_guarded": {mode: _renamed(draws, names) for mode, draws in program._guarded.items()},
        "stored": _stored(program.leaves.values()),
        "autoguides": autoguides,
    }


def restore(program: Program, state: Mapping[str, Any]) -> None:
    """Make a program of a state, and put its parameters into the param store where it has none of their names."""
    kept = {name: value for name, value in state.items() if name not in ("stored", "autoguides")}
    vars(program).update(kept, _tapes={}, _row_plates={})
    program.leaves = {name: _as_found(leaf) for name, leaf in program.leaves.items()}
    ids = {name: id(leaf.tensor) for name, leaf in program.leaves.items()}
    program.guide_draws = _renamed(program.guide_draws, ids)
    program._guarded = {mode: _renamed(draws, ids) for mode, draws in program._guarded.items()}
    program.use(program.elbo)
    own(leaf.tensor for leaf in program.leaves.values())
    store = pyro.get_param_store()
    for site, name in state["stored"].items():
        if site not in store:
            leaf = program.leaves[name]
            store.set_state({"params": {site: leaf.tensor}, "constraints": {site: leaf.constraint}})


def without_weak_references(tensors: Iterable[Tensor]) -> None:
    """Take off what Pyro sets anew whenever a parameter is read, and what can't be pickled."""
    for tensor in tensors:
        vars(tensor).pop("unconstrained", None)


def own(tensors: Iterable[Tensor]) -> None:
    """Give those tensors memory of their own that another process would write to."""
    for tensor in tensors:
        if tensor.is_shared():
            tensor.data = tensor.data.clone()


def _stored(leaves: Iterable[Leaf]) -> dict[str, str]:
    """Names of the leaves that the param store holds, by its own names for them."""
    held = pyro.get_param_store()._params
    return {site: leaf.name for leaf in leaves for site in leaf.sites if held.get(site) is leaf.tensor}


def _renamed(draws: GuideDraws, names: Mapping[Any, Any]) -> GuideDraws:
    def each(sites: Mapping[str, frozenset[Any]]) -> dict[str, frozenset[Any]]:
        return {site: frozenset(names[leaf] for leaf in leaves if leaf in names) for site, leaves in sites.items()}

    once = each(draws.once_differentiable)
    return replace(draws, score_function=each(draws.score_function), once_differentiable=once)


def _as_found(leaf: Leaf) -> Leaf:
    """A leaf whose lack of a constraint is known by identity."""
    unconstrained = isinstance(leaf.constraint, type(constraints.real))
    return replace(leaf, constraint=constraints.real) if unconstrained else leaf


class _Autoguides:
    """The models of autoguides, which lose them, the original too, when they are pickled.

    In a pickle it must come after the guides.
    """

    def __init__(self, guides: Iterable[AutoGuide]) -> None:
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


def _check_modules(program: Program, autoguides: _Autoguides) -> None:
    """Refuse modules that pickle leaves to the other process, as it does with a function and all that it names."""
    known = {id(module) for module in program.modules(registered=False)}
    slots = [(leaf.name, module) for leaf in program.leaves.values() for module, _ in leaf.slots]
    if all(id(module) in known for _, module in slots):
        return
    reached = _Reached()
    try:
        reached.dump((program.model, program.guide))
    finally:
        autoguides.put_back()
    lost = [name for name, module in slots if id(module) not in reached.modules]
    if lost:
        raise pickle.PicklingError(
            f"{', '.join(map(repr, lost))}: a function of the program has the module from a global variable or a "
            "closure, which does not go with a pickle: make model and guide methods of an nn.Module that holds it"
        )
