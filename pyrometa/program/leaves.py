"""Find the tensors that a Pyro program learns, and how each can be answered from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrometa.program.autograd_graph import leaf_ids
from pyrometa.program.param_recorder import Side, SideRun, root_module

_UNCONSTRAINED = "_unconstrained"


@dataclass(frozen=True)
class Leaf:
    """One parameter of the program: the user's own tensor and every way that the program reads it.

    Attributes:
        name: public name, ``guide.`` or ``model.`` and the module path or ``pyro.param`` name.
        tensor: the user's tensor, unconstrained.
        constraint: support of the value that the program sees.
        slots: ``(module, key)`` of each ``module._parameters`` entry that holds it.
        sites: names of the ``param`` messages that ask for it.
        sides: who reads it.
    """

    name: str
    tensor: Tensor
    constraint: Constraint
    slots: tuple[tuple[nn.Module, str], ...]
    sites: tuple[str, ...]
    sides: frozenset[Side]

    @property
    def trainable(self) -> bool:
        """Whether the outer loop learns it: ``requires_grad=False`` freezes."""
        return self.tensor.requires_grad

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled leaf; without a constraint it gets ``constraints.real`` itself, by which that is known."""
        unconstrained = isinstance(state["constraint"], type(constraints.real))
        vars(self).update(state, **({"constraint": constraints.real} if unconstrained else {}))


def find_leaves(guide: SideRun, model: SideRun) -> dict[str, Leaf]:
    """All leaves of a program by public name, the guide's first.

    A leaf that both sides reach has two readers, unless the guide only holds it and the model computes with it, as an
    autoguide holds its model: then the model alone reads it. It is named after the guide if the guide reads it.
    """
    runs = (guide, model)
    modules = _modules(runs)
    slots, held = _slots(modules)
    reached = {run.side: _reached(run) for run in runs}
    readers = _readers(runs, reached)
    leaves: dict[str, Leaf] = {}
    for name, tensor in _named_after(reached, readers):
        if name in leaves:
            raise ValueError(f"two different parameters are called {name!r}: rename one of them")
        key, sites = id(tensor), _sites(tensor, runs, modules)
        constraint = held.get(key) or _site_constraint(sites, runs)
        leaves[name] = Leaf(name, tensor, constraint, tuple(slots.get(key, ())), sites, readers[key])
    return leaves


def _readers(runs: Iterable[SideRun], reached: Mapping[Side, Mapping[str, Tensor]]) -> dict[int, frozenset[Side]]:
    """Which sides read each leaf, by its id."""
    used = {run.side: _used_tensors(run.trace) for run in runs}
    only_the_models = used["model"] - used["guide"]
    found: dict[int, set[Side]] = {}
    for side, tensors in reached.items():
        for tensor in tensors.values():
            found.setdefault(id(tensor), set()).add(side)
    return {
        key: frozenset({"model"} if len(sides) == 2 and key in only_the_models else sides)
        for key, sides in found.items()
    }


def _named_after(
    reached: Mapping[Side, Mapping[str, Tensor]], readers: Mapping[int, frozenset[Side]]
) -> Iterator[tuple[str, Tensor]]:
    """Each leaf once, by its first name on the side that it is named after."""
    seen: set[int] = set()
    for side, tensors in reached.items():
        for local_name, tensor in tensors.items():
            key = id(tensor)
            if key not in seen and side == ("guide" if "guide" in readers[key] else "model"):
                seen.add(key)
                yield f"{side}.{local_name}", tensor


def _modules(runs: Iterable[SideRun]) -> list[nn.Module]:
    """Every module of the program, submodules included, once."""
    found: dict[int, nn.Module] = {}
    for run in runs:
        root = root_module(run.program)
        for top in ([root] if root is not None else []) + list(run.recorder.modules.values()):
            for module in top.modules():
                found.setdefault(id(module), module)
    return list(found.values())


def _slots(
    modules: Iterable[nn.Module],
) -> tuple[dict[int, list[tuple[nn.Module, str]]], dict[int, Constraint]]:
    """Where each module parameter is held, and the constraints of those that are PyroParams."""
    slots: dict[int, list[tuple[nn.Module, str]]] = {}
    held: dict[int, Constraint] = {}
    for module in modules:
        for key, tensor in module._parameters.items():
            if tensor is None:
                continue
            slots.setdefault(id(tensor), []).append((module, key))
            constraint = _pyro_param_constraint(module, key)
            if constraint is not None:
                held[id(tensor)] = constraint
    return slots, held


def _pyro_param_constraint(module: nn.Module, key: str) -> Constraint | None:
    if isinstance(module, PyroModule) and key.endswith(_UNCONSTRAINED):
        return module._pyro_params.get(key[: -len(_UNCONSTRAINED)], (None, None))[0]
    return None


def _reached(run: SideRun) -> dict[str, Tensor]:
    """Leaves of one side by local name.

    A module reaches all of its parameters; a function those it registers with Pyro; a method of a module
    those and what it uses of the module.
    """
    root = root_module(run.program)
    by_path = {} if root is None else _named_tensors(root)
    registered = {id(t) for t in run.recorder.leaves.values()}
    if root is not None and root is not run.program:
        registered |= _used_tensors(run.trace)
        by_path = {path: t for path, t in by_path.items() if id(t) in registered}
    known = {id(t) for t in by_path.values()}
    for site, tensor in run.recorder.leaves.items():
        if id(tensor) not in known:
            known.add(id(tensor))
            by_path[site.replace("$$$", ".")] = tensor
    return by_path


def _named_tensors(root: nn.Module) -> dict[str, Tensor]:
    """Parameters of a module by path, a PyroParam without its ``_unconstrained``; private paths last."""
    named = {}
    for prefix, module in root.named_modules():
        for key, tensor in module._parameters.items():
            if tensor is not None:
                is_pyro_param = _pyro_param_constraint(module, key) is not None
                local = key[: -len(_UNCONSTRAINED)] if is_pyro_param else key
                named[f"{prefix}.{local}" if prefix else local] = tensor
    return dict(sorted(named.items(), key=lambda item: any(part.startswith("_") for part in item[0].split("."))))


def _sites(tensor: Tensor, runs: Iterable[SideRun], modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """Names of the ``param`` messages that ask for a leaf, seen or to be expected."""
    names = [site for run in runs for site, leaf in run.recorder.leaves.items() if leaf is tensor]
    for module in modules:
        if isinstance(module, PyroModule) and module._pyro_context.used:
            names += [
                module._pyro_get_fullname(name)
                for name in module._pyro_params
                if module._parameters.get(name + _UNCONSTRAINED) is tensor
            ]
    return tuple(dict.fromkeys(names))


def _site_constraint(sites: tuple[str, ...], runs: Iterable[SideRun]) -> Constraint:
    seen = [run.recorder.constraints[s] for run in runs for s in sites if s in run.recorder.constraints]
    return seen[0] if seen else constraints.real


def _used_tensors(trace: Trace) -> set[int]:
    """Ids of the leaves that the values and log densities of a trace depend on."""
    outputs = []
    for site in trace.nodes.values():
        if site["type"] == "sample":
            fn: Any = site["fn"]
            outputs += [site["value"], fn.log_prob(site["value"])]
    return leaf_ids(outputs)
