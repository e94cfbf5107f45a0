"""The guide's draws, by what a gradient makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyro.poutine import Trace
from torch.distributions import Independent

from pyrometa.program.autograd_graph import graph_nodes, leaf_ids, node_leaf_ids
from pyrometa.program.leaves import Leaf
from pyrometa.program.traces import draws

_ONCE_DIFFERENTIABLE = ("StandardGammaBackward", "_DirichletBackward", "DirichletGradBackward")


@dataclass(frozen=True)
class GuideDraws:
    """The guide's draws that second-order gradients can't pass, each with the leaves that it depends on.

    A leaf is given by its name; ``""`` stands for all tensors that require a gradient and are no leaf of the program.

    Attributes:
        score_function: draws that have no gradient.
        once_differentiable: draws that have a gradient, which itself has none.
        straight_through: draws whose gradient is that of something else: no derivative, and biased by design, so that
            they are let pass.
        summed_out: those draws without a gradient of which the ELBO sums over all values.
    """

    score_function: Mapping[str, frozenset[str]] = field(default_factory=dict)
    once_differentiable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    straight_through: frozenset[str] = frozenset()
    summed_out: frozenset[str] = frozenset()

    @property
    def sampled(self) -> bool:
        """Whether the loss is an estimate whose gradient is not the derivative of its value."""
        return any(leaves for name, leaves in self.score_function.items() if name not in self.summed_out)

    @classmethod
    def of(cls, trace: Trace, leaves: Mapping[str, Leaf]) -> GuideDraws:
        """Read them off a trace of the guide, of a program with these leaves."""
        names = {id(leaf.tensor): name for name, leaf in leaves.items()}
        score_function, once = {}, {}
        straight = frozenset(name for name, site in draws(trace).items() if _is_straight_through(site["fn"]))
        for name, site in draws(trace).items():
            if not site["fn"].has_rsample:
                score_function[name] = _named(leaf_ids([site["fn"].log_prob(site["value"].detach())]), names)
            nodes = [n for n in graph_nodes([site["value"].grad_fn]) if n.name().startswith(_ONCE_DIFFERENTIABLE)]
            if nodes:
                once[name] = _named(node_leaf_ids(nodes), names)
        summed_out = frozenset(name for name in score_function if _is_summed_out(trace.nodes[name]["infer"] or {}))
        return cls(score_function, once, straight, summed_out)


def _named(ids: Iterable[int], names: Mapping[int, str]) -> frozenset[str]:
    return frozenset(names.get(key, "") for key in ids)


def _is_straight_through(fn: Any) -> bool:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return any("StraightThrough" in kind.__name__ for kind in type(fn).__mro__)


def _is_summed_out(infer: Mapping[str, Any]) -> bool:
    return "_enumerate_dim" in infer and infer.get("num_samples") is None
