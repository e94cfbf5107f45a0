"""What a posterior is worth for data that it did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger

from pyrometa.diagnostics.latent_use import Rows, drawn_by
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.program.traces import latents

__all__ = ["check_parted", "without_shared"]

Program = Callable[..., Any]


def without_shared(model: Program, guide: Program, rows: Rows) -> tuple[Program, Program]:
    """Model and guide whose log weight is ``log p(x, z_rows | z) - log q(z_rows | z)``, at shared z."""
    if not rows.shared:
        return model, guide
    return (
        _Uncounted(lambda msg: msg["name"] in rows.shared)(model),
        _Uncounted(lambda msg: not any(frame.name in rows.plates for frame in msg["cond_indep_stack"]))(guide),
    )


def check_parted(guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: Rows) -> None:
    """Refuse a guide that draws shared latents and rows' own as one vector.

    Raises:
        ValueError: naming a site of a row.
    """
    if not (rows.shared and rows.local):
        return
    with store_left_as_it_is(), torch.no_grad():
        sites = latents(poutine.trace(guide).get_trace(*args, **kwargs))
    for name in rows.local:
        if name in sites and isinstance(drawn_by(name, sites)["fn"], Delta):
            raise ValueError(
                f"the guide draws {name!r}, of which each row has its own, in one vector with "
                f"{', '.join(map(repr, rows.shared))}, so what the query set pays can't be told: give no query, "
                "or a guide that draws it in the rows' plate"
            )


class _Uncounted(Messenger):
    """Takes the log density of some sites for 0."""

    def __init__(self, applies: Callable[[Any], bool]) -> None:
        super().__init__()
        self._applies = applies

    def _pyro_sample(self, msg: Any) -> None:
        if self._applies(msg):
            msg["mask"] = False
