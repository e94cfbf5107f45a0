"""Refuse to score variational parameters of the support set's rows on other rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from pyro.infer.autoguide import AutoCallable, AutoGuide, AutoGuideList
from pyro.poutine import Trace
from torch import nn

from pyrometa import nest
from pyrometa.errors import UnsupportedProgramError
from pyrometa.program.param_recorder import SideRun, root_module
from pyrometa.program.traces import is_data, latents, plates
from pyrometa.types import Data


def local_sites(guide: SideRun, model: Trace) -> tuple[str, ...]:
    """Latent sites for which an autoguide holds a variational parameter for each row of a plate with observed sites."""
    root = root_module(guide.program)
    modules = [*guide.recorder.modules.values(), *(root.modules() if root is not None else ())]
    held = {name for module in modules for name in _held_sites(module)}
    observed = {plate.name for site in model.nodes.values() if is_data(site) for plate in plates(site)}
    return tuple(
        name
        for name, site in latents(model).items()
        if name in held and any(plate.name in observed for plate in plates(site))
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
