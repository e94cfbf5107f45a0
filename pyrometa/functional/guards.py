"""Refuse, by name and with the cure, the programs whose meta-gradient would be silently wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import Delta
from pyro.infer import RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoCallable, AutoGuide, AutoGuideList
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import Independent

from pyrometa import nest
from pyrometa.errors import ReachError, UnsupportedProgramError
from pyrometa.functional.graph import graph_nodes, leaf_ids, node_leaf_ids
from pyrometa.functional.layers import layers
from pyrometa.functional.recorder import SideRun, root_module
from pyrometa.types import Data

if TYPE_CHECKING:
    from pyrometa.functional.program import Program

_ONCE_DIFFERENTIABLE = ("StandardGammaBackward", "_DirichletBackward", "DirichletGradBackward")


@dataclass(frozen=True)
class GuideDraws:
    """The guide's draws that second-order gradients can't pass, each with the leaves that it depends on.

    Straight-through draws are passed, and biased by design: their gradient is not a derivative.

    Attributes:
        score_function: draws without a gradient.
        once_differentiable: draws whose gradient has none.
        straight_through: draws whose gradient is another's.
        summed_out: those of the first that the ELBO enumerates, with all that they may be.
    """

    score_function: Mapping[str, frozenset[int]] = field(default_factory=dict)
    once_differentiable: Mapping[str, frozenset[int]] = field(default_factory=dict)
    straight_through: frozenset[str] = frozenset()
    summed_out: frozenset[str] = frozenset()

    @property
    def sampled(self) -> bool:
        """Whether the loss is an estimate whose gradient is not the derivative of its value."""
        return any(leaves for name, leaves in self.score_function.items() if name not in self.summed_out)

    @classmethod
    def of(cls, trace: Trace) -> GuideDraws:
        """Read them off a trace of the guide."""
        score_function, once = {}, {}
        straight = frozenset(name for name, site in _draws(trace).items() if _is_straight_through(site["fn"]))
        for name, site in _draws(trace).items():
            if not site["fn"].has_rsample:
                score_function[name] = frozenset(leaf_ids([site["fn"].log_prob(site["value"].detach())]))
            nodes = [n for n in graph_nodes([site["value"].grad_fn]) if n.name().startswith(_ONCE_DIFFERENTIABLE)]
            if nodes:
                once[name] = frozenset(node_leaf_ids(nodes))
        summed_out = frozenset(name for name in score_function if _is_summed_out(trace.nodes[name]["infer"] or {}))
        return cls(score_function, once, straight, summed_out)


def check_draws(program: Program, adapted: Iterable[str]) -> None:
    """Refuse draws of the guide whose second derivative is known to be wrong or missing.

    Raises:
        UnsupportedProgramError: naming the site and the cure.
    """
    ids = {id(program.leaves[name].tensor) for name in adapted}
    for site, leaves in program.guide_draws.score_function.items():
        if leaves & ids and isinstance(program.elbo, Trace_ELBO | RenyiELBO):
            raise UnsupportedProgramError(
                f"guide site {site!r} is not reparameterised, and {type(program.elbo).__name__} has a wrong second "
                "derivative there: use TraceEnum_ELBO (enumerate the site, or its DiCE estimator), or first order, "
                "meta_gradient=Unrolled(first_order=True)"
            )
    for site, leaves in program.guide_draws.once_differentiable.items():
        if leaves & ids:
            raise UnsupportedProgramError(
                f"guide site {site!r} draws a Gamma, Beta or Dirichlet, whose reparameterised sample torch can't "
                "differentiate twice: use first order, meta_gradient=Unrolled(first_order=True), or a LogNormal, "
                "Kumaraswamy or logistic-normal guide"
            )


def check_sites(guide: Trace, model: Trace, lines: Mapping[str, str]) -> None:
    """Refuse a guide whose latent sites are not the model's.

    Args:
        guide: a trace of the guide.
        model: of the model.
        lines: where the program samples each site, as far as it is known.

    Raises:
        ValueError: naming the sites.
    """
    in_guide, in_model = _latents(guide), _latents(model)
    missing = [name for name, site in in_model.items() if name not in in_guide and not site["infer"].get("enumerate")]
    if missing:
        raise ValueError(
            f"the guide has no site for {_listed(missing)} of the model (it has {_listed(in_guide) or 'none'}): "
            f"add a pyro.sample of that name to the guide, or enumerate the site{_at(lines, missing[0])}"
        )
    extra = [
        name for name, site in in_guide.items() if name not in model.nodes and not site["infer"].get("is_auxiliary")
    ]
    if extra:
        raise ValueError(
            f"the guide samples {_listed(extra)}, which the model does not have (it has {_listed(in_model) or 'none'})"
            f': rename the site, or mark it infer={{"is_auxiliary": True}}{_at(lines, extra[0])}'
        )


def _at(lines: Mapping[str, str], site: str) -> str:
    return f" ({lines[site]})" if site in lines else ""


def check_list(model: Callable[..., Any], name: str, given: Any) -> None:
    """Refuse a list that may as well be the model's arguments, as the default batch ``[x, y]`` of a DataLoader is.

    A model whose second argument has a default (``y=None``) could be run on either reading.

    Raises:
        TypeError: naming the argument, with the model's signature and the cure.
    """
    signature = _signature(model)
    if signature is None or not isinstance(given, list) or not all(isinstance(part, Tensor) for part in given):
        return
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional = kinds.count(inspect.Parameter.POSITIONAL_ONLY) + kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(given) == positional > 1 and len({part.shape[:1] for part in given}) == 1:
        raise TypeError(
            f"{name} is a list of as many tensors as a model of {signature} takes, all of {len(given[0])} rows: a list "
            "is tasks, so use a tuple, tuple(batch), if it holds the model's arguments, as a DataLoader's batch does, "
            "or make each task a tuple, [(x,) for x in tasks]"
        )


def check_call(model: Callable[..., Any], data: Data) -> None:
    """Refuse data that the model does not take for its arguments.

    Raises:
        TypeError: with the model's signature and the cure.
    """
    signature = _signature(model)
    if signature is None:
        return
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    kwargs = {key: value for key, value in data.kwargs.items() if takes_any or key in signature.parameters}
    try:
        signature.bind(*data.args, **kwargs)
    except TypeError as error:
        count = f"{len(data.args)} argument{'' if len(data.args) == 1 else 's'}"
        raise TypeError(
            f"a task holds {count} for a model of {signature}, {error}: a tuple is the model's arguments, a list is "
            "tasks, and anything else is one argument, so use a tuple, tuple(batch), for a DataLoader's batch [x, y]"
        ) from None


def _signature(model: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(getattr(model, "forward", model), follow_wrapped=False)
    except (TypeError, ValueError):  # of a callable without one
        return None


def check_reach(program: Program, data: Data, adapted: Iterable[str]) -> None:
    """Prove that fast weights reach the program: on detached copies, no gradient may reach the originals.

    Raises:
        ReachError: naming the parameters that the program reads from elsewhere.
    """
    names = list(adapted)
    if not names:
        return
    copies = {n: program.leaves[n].tensor.detach().clone().requires_grad_() for n in names}
    with torch.random.fork_rng(), torch.enable_grad():
        loss = program.loss(copies, data) + program.score(copies, data)
    if not loss.requires_grad:
        raise ReachError(f"the loss depends on none of {_listed(names)}: does the program detach them?")
    originals = [program.leaves[n].tensor for n in names]
    grads = torch.autograd.grad(loss, originals, allow_unused=True)
    behind = tuple(n for n, grad in zip(names, grads, strict=True) if grad is not None)
    if behind:
        raise ReachError(
            f"the program reads {_listed(behind)} from somewhere that fast weights do not reach (a tensor kept "
            "outside its module, a closure, or the param store itself): read it as a module attribute or by "
            "pyro.param within the model or guide",
            behind,
        )


def local_sites(guide: SideRun, model: Trace) -> tuple[str, ...]:
    """Latent sites for which an autoguide holds a variational parameter for each row of a plate with observed sites."""
    root = root_module(guide.program)
    modules = [*guide.recorder.modules.values(), *(root.modules() if root is not None else ())]
    held = {name for module in modules for name in _held_sites(module)}
    observed = {plate.name for site in model.nodes.values() if _is_data(site) for plate in _plates(site)}
    return tuple(
        name
        for name, site in _latents(model).items()
        if name in held and any(plate.name in observed for plate in _plates(site))
    )


def check_rows(local: Sequence[str], supports: Iterable[Data], queries: Iterable[Data]) -> None:
    """Refuse to score variational parameters of the support set's rows on other rows, or on other numbers of rows.

    Args:
        local: the program's :func:`local_sites`.
        supports: what each task adapts to.
        queries: what it is scored on.

    Raises:
        UnsupportedProgramError: naming the sites and the cure.
    """
    if not local:
        return
    given = list(supports)
    if len({nest.tensors(data.args)[0].shape[:1] for data in given}) > 1:
        raise UnsupportedProgramError(
            f"the autoguide holds one variational parameter for each row of the support set at {', '.join(local)}, and "
            "the tasks differ in their rows: use an amortised guide for these sites, or block them from the autoguide "
            "(poutine.block)"
        )
    if not all(map(_same_rows, given, queries)):
        raise UnsupportedProgramError(
            f"the autoguide holds one variational parameter for each row of the support set at {', '.join(local)}, "
            "which says nothing of other rows: use query=None, an amortised guide for these sites, "
            "or block them from the autoguide (poutine.block)"
        )


def _same_rows(support: Data, query: Data) -> bool:
    ours, theirs = (nest.layout(data.args, lambda tensor: (tensor.shape, tensor.dtype)) for data in (support, query))
    return ours == theirs and all(map(torch.equal, support.tensors(), query.tensors()))


def _held_sites(module: nn.Module) -> Iterable[str]:
    """Sites that an autoguide itself, not a part of it, holds variational parameters for."""
    if not isinstance(module, AutoGuide) or isinstance(module, AutoGuideList | AutoCallable):
        return ()
    return () if module.prototype_trace is None else module.prototype_trace.nodes


def _is_data(site: Any) -> bool:
    """Whether a site is observed, and not a value that ``pyro.deterministic`` or a reparameterisation computed."""
    return bool(site.get("is_observed")) and not any(isinstance(fn, Delta) for fn in layers(site["fn"]))


def _plates(site: Any) -> Iterable[Any]:
    return site["cond_indep_stack"] if site["type"] == "sample" else ()


def _latents(trace: Trace) -> dict[str, Any]:
    return {name: site for name, site in _draws(trace).items() if not site["is_observed"]}


def _draws(trace: Trace) -> dict[str, Any]:
    nodes = trace.nodes.items()
    return {name: site for name, site in nodes if site["type"] == "sample" and not _is_subsample(site)}


def _is_straight_through(fn: Any) -> bool:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return any("StraightThrough" in kind.__name__ for kind in type(fn).__mro__)


def _is_summed_out(infer: Mapping[str, Any]) -> bool:
    return "_enumerate_dim" in infer and infer.get("num_samples") is None


def _is_subsample(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)
