"""The torch optimiser of the outer loop, built from what the user gave and keyed by names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from pyrometa.outer.many_leaves import many_at_once
from pyrometa.outer.undo import Undo

ParamGroup: TypeAlias = dict[str, Any]
Optim: TypeAlias = PyroOptim | Callable[[list[ParamGroup]], torch.optim.Optimizer]


def check_optim(optim: object) -> None:
    """Refuse what no torch optimiser can be built from.

    Raises:
        TypeError: with the cure.
    """
    if isinstance(optim, PyroLRScheduler):
        raise TypeError(
            "a PyroLRScheduler steps one optimiser a parameter: give the PyroOptim itself, "
            "and build a torch scheduler on meta.optimizer"
        )
    if isinstance(optim, torch.optim.Optimizer):
        raise TypeError(
            f"optim is a {type(optim).__name__} that is already bound to parameters: give a factory, "
            f"lambda groups: torch.optim.{type(optim).__name__}(groups, lr=1e-3)"
        )
    if not (isinstance(optim, PyroOptim) or callable(optim)):
        raise TypeError(f"optim must be a pyro.optim.PyroOptim or a factory(param_groups), got {type(optim).__name__}")


class OuterOptimizer:
    """A torch optimiser over named leaves.

    Of a PyroOptim only the constructor, its arguments and its clip arguments are read; callable arguments
    are asked with the leaf's public name.

    Args:
        optim: a PyroOptim, or a function of torch parameter groups to a torch optimiser.
        leaves: the program's leaves.
        learned: the inner rule's leaves, a group of their own.
        outer_lr: step size of that group; None for the optimiser's own.

    Raises:
        ValueError: there are no leaves.
        TypeError: the function returns something else than a torch optimiser.
    """

    def __init__(
        self,
        optim: Optim,
        leaves: Mapping[str, Tensor],
        learned: Mapping[str, Tensor],
        outer_lr: float | None,
    ) -> None:
        self._leaves = {**leaves, **learned}
        if not self._leaves:
            raise ValueError(
                "there is nothing to learn: the model and the guide have no parameter that requires grad; give one of "
                "them a pyro.param or a module that has some"
            )
        own_lr = {} if outer_lr is None else {"lr": outer_lr}
        groups: list[tuple[list[str], ParamGroup]] = []  # neighbours of the same options; the rule's apart
        for name in self._leaves:
            options = {**_options(optim, name), **(own_lr if name in learned else {})}
            if not groups or groups[-1][1] != options or next(iter(learned), None) == name:
                groups.append(([], options))
            groups[-1][0].append(name)
        self._names = [name for names, _ in groups for name in names]
        self._clips = {name: _called(optim.pt_clip_args, name) for name in self._names if isinstance(optim, PyroOptim)}
        self.optimizer = self._build(optim, groups)

    def _build(self, optim: Optim, groups: list[tuple[list[str], ParamGroup]]) -> torch.optim.Optimizer:
        torch_groups = [{"params": [self._leaves[n] for n in names], **options} for names, options in groups]
        if isinstance(optim, PyroOptim):
            constructor: Any = optim.pt_optim_constructor
            return constructor(torch_groups, **groups[0][1])
        optimizer = optim(torch_groups)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"the optim factory must return a torch optimiser, got {type(optimizer).__name__}")
        return optimizer

    def step(self, grads: Mapping[str, Tensor]) -> None:
        """Clip the gradients, update the leaves that have one in place, and leave no gradient behind.

        The update is done as a whole or, if it ends in an exception, not at all.
        """
        with self.undone_on_error():
            self._update(grads)

    def undone_on_error(self, others: Iterable[Tensor] = ()) -> Undo:
        """A context that puts leaves, gradients, the optimiser's state and others back if what runs within fails."""
        return Undo(self.optimizer, [*self._leaves.values(), *others])

    def _update(self, grads: Mapping[str, Tensor]) -> None:
        before = {name: leaf.grad for name, leaf in self._leaves.items()}
        for name, leaf in self._leaves.items():
            leaf.grad = grads.get(name)
            if leaf.grad is not None:
                self._clip(name, leaf)
        with many_at_once(self.optimizer):
            self.optimizer.step()
        for name, leaf in self._leaves.items():
            leaf.grad = before[name]

    def _clip(self, name: str, leaf: Tensor) -> None:
        clip = self._clips.get(name, {})
        if clip.get("clip_norm") is not None:
            clip_grad_norm_(leaf, clip["clip_norm"])
        if clip.get("clip_value") is not None:
            clip_grad_value_(leaf, clip["clip_value"])

    def tensors(self) -> list[Tensor]:
        """All tensors of the optimiser's state."""
        held = self.optimizer.state.values()
        return [value for state in held for value in state.values() if isinstance(value, Tensor)]

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's class and state, keyed by the leaves' names."""
        state = self.optimizer.state_dict()
        return {
            "class": type(self.optimizer).__name__,
            "state": {self._names[i]: copy.deepcopy(values) for i, values in state["state"].items()},
            "param_groups": [
                {**group, "params": [self._names[i] for i in group["params"]]} for group in state["param_groups"]
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`.

        Raises:
            ValueError: the state is of other parameters, or of an optimiser of another class.
        """
        self._check_class(state)
        index = {name: i for i, name in enumerate(self._names)}
        given = [name for group in state["param_groups"] for name in group["params"]]
        others = sorted(set(given) ^ set(index) | state["state"].keys() - index.keys())
        if others or given != self._names:
            raise ValueError(
                f"the optimiser state is of {len(given)} parameters that are not these {len(index)}: "
                f"{', '.join(others) or 'their order or groups differ'}"
            )
        self.optimizer.load_state_dict(
            {
                "state": {index[name]: copy.deepcopy(values) for name, values in state["state"].items()},
                "param_groups": [
                    {**group, "params": [index[name] for name in group["params"]]} for group in state["param_groups"]
                ],
            }
        )

    def _check_class(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of another class; one that does not tell its class, by the options that its groups lack."""
        here = type(self.optimizer).__name__
        there = state.get("class", here)
        if there != here:
            raise ValueError(f"the optimiser state is not of a {here}: it is of {there}, so give optim= that class")
        own = self.optimizer.state_dict()["param_groups"]
        lacking = {
            key for mine, theirs in zip(own, state["param_groups"], strict=False) for key in mine.keys() - theirs
        }
        if lacking - {"initial_lr"}:  # which a learning-rate scheduler adds
            raise ValueError(
                f"the optimiser state is not of a {here}: its groups lack {', '.join(sorted(lacking))}, "
                "so give optim= the class that it is of"
            )


def _options(optim: Optim, name: str) -> ParamGroup:
    return _called(optim.pt_optim_args, name) if isinstance(optim, PyroOptim) else {}


def _called(options: Any, name: str) -> ParamGroup:
    """Options of one parameter: a dictionary, or a function of its name (or of module and name, as in old Pyro)."""
    if not callable(options):
        return dict(options)
    module, _, local = name.rpartition(".")
    two_arguments = len(inspect.signature(options).parameters) == 2
    return dict(options(module, local) if two_arguments else options(name))
