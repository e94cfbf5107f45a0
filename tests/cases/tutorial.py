"""A program of a tutorial, tasks for it, and what MetaSVI is told of it."""

from dataclasses import dataclass, field

import pyro
from pyro.infer import Trace_ELBO

import pyrometa as pm

TASKS = 3


@dataclass
class Tutorial:
    """A program, tasks for it, and the options that it needs: local parameters have no query of other rows."""

    model: object
    guide: object
    support: object
    query: object = None
    loss: object = field(default_factory=Trace_ELBO)
    adapt: str = "guide"
    lr: float = 1e-3
    first_order: bool = False
    looped: str | None = None  # why the tasks are run one by one


def meta_svi(tutorial, **options):
    """MetaSVI in SVI's place: the program as it is."""
    gradient = pm.Unrolled(first_order=tutorial.first_order)
    given = {"inner": pm.SGD(tutorial.lr), "steps": 2, "meta_gradient": gradient, "adapt": tutorial.adapt}
    return pm.MetaSVI(tutorial.model, tutorial.guide, pyro.optim.Adam({"lr": 0.02}), tutorial.loss, **given, **options)
