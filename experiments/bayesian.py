"""Five ways of Bayesian meta-learning, each a model, a guide, an inner rule and a query objective.

Each function makes one for regression tasks ``(x, y)`` of shapes (rows, 1); :class:`Method` says how its tasks are
given to ``MetaSVI`` and how it predicts. ``experiments/sine_line.py`` runs them all:

    ABML      Ravi, Beatson (2019), https://openreview.net/forum?id=rkgpy3C5tX
    BMAML     Yoon et al. (2018), https://arxiv.org/abs/1806.03836
    PLATIPUS  Finn, Xu, Levine (2018), https://arxiv.org/abs/1806.02817
    VERSA     Gordon et al. (2019), https://arxiv.org/abs/1805.09921
    NP        Garnelo et al. (2018), https://arxiv.org/abs/1807.01622

MAML with a point estimate of the weights is what they are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_mean
from torch import Tensor

import pyrometa as pm
from experiments.bayesian_networks import BayesianNetwork, Decoder, Features, Head, NormalWeights, Platipus
from pyrometa.guides import ParticleGuide, SetEncoderGuide
from pyrometa.inner import SVGD
from pyrometa.scores import PredictiveLoss

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Method:
    """A ``MetaSVI``; its arguments for a meta-batch; draws of the regression function, (tasks, draws, rows)."""

    meta: pm.MetaSVI
    arguments: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]]
    draws: Callable[[Tensors, Tensor], Tensor]
    noise: Callable[[], float]


def plain(support: Tensors, query: Tensors) -> tuple[Tensors, Tensors]:
    return support, query


def drawn_from_guides(meta: pm.MetaSVI, num_samples: int) -> Callable[[Tensors, Tensor], Tensor]:
    @torch.no_grad()
    def draws(support: Tensors, x: Tensor) -> Tensor:
        found = []
        for guide, rows in zip(meta.adapt_many(support), x, strict=True):
            with pyro.plate("draws", num_samples, dim=-2):
                drawn = poutine.trace(guide).get_trace(rows)
                found.append(poutine.trace(poutine.replay(guide.model, drawn)).get_trace(rows).nodes["mean"]["value"])
        return torch.stack(found).view(len(x), num_samples, -1)

    return draws


def adam_for_scales(name: str) -> dict[str, float]:
    """Scales of many weights go a long way; what only the inner loop may move stays."""
    return {"lr": 0.0 if name.endswith("shift") else 1e-2 if "scale" in name else 2e-3}


def maml(tasks: int, engine: pm.Engine, steps: int = 5) -> Method:
    model = BayesianNetwork(tasks)
    guide = AutoDelta(model, init_loc_fn=init_to_mean)
    inner, score = pm.SGD(1e-3, learn="layer", outer_lr=1e-2), PredictiveLoss(1)
    meta = pm.MetaSVI(
        model, guide, pyro.optim.Adam({"lr": 2e-3}), Trace_ELBO(), inner, steps, score=score, engine=engine
    )
    return Method(meta, plain, drawn_from_guides(meta, 1), lambda: model.noise.item())


def abml(tasks: int, engine: pm.Engine, steps: int = 5) -> Method:
    """The query set is all rows of the task: the ELBO of all data, of a posterior that has seen the support set."""
    model = BayesianNetwork(tasks, scale=0.03)
    guide, inner = NormalWeights(model), pm.SGD(1e-3, learn="layer", outer_lr=1e-2)
    loss = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam(adam_for_scales), loss, inner, steps, engine=engine)

    def arguments(support: Tensors, query: Tensors) -> tuple[Tensors, Tensors]:
        return support, tuple(torch.cat(pair, 1) for pair in zip(support, query, strict=True))

    return Method(meta, arguments, drawn_from_guides(meta, 100), lambda: model.noise.item())


def bmaml(tasks: int, engine: pm.Engine, steps: int = 5, particles: int = 5) -> Method:
    model = BayesianNetwork(tasks)
    together = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    guide, inner = ParticleGuide(model, particles, 1), SVGD(5e-3, learn="layer", outer_lr=1e-2)
    loss, score = Trace_ELBO(**together), PredictiveLoss(**together)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), loss, inner, steps, score=score, engine=engine)
    return Method(meta, plain, drawn_from_guides(meta, particles), lambda: model.noise.item())


def platipus(tasks: int, engine: pm.Engine, steps: int = 5, num_samples: int = 10) -> Method:
    program = Platipus()
    inner, optim = pm.SGD(1e-3, learn="layer", outer_lr=1e-2), pyro.optim.Adam(adam_for_scales)
    options = {"adapt": "*.shift", "engine": engine}
    meta = pm.MetaSVI(program.model, program.guide, optim, Trace_ELBO(), inner, steps, **options)

    def arguments(support: Tensors, query: Tensors) -> tuple[Tensors, Tensors]:
        draw = torch.randn(len(support[0]), program.size)  # the same start for the support and the query set
        return (*support, *support, *query, draw), (*query, *support, *query, draw)

    @torch.no_grad()
    def draws(support: Tensors, x: Tensor) -> Tensor:
        support = tuple(rows.repeat_interleave(num_samples, 0) for rows in support)
        args = arguments(support, support)[0]
        guides = meta.adapt_many(args, kwargs={"train": False})
        found = []
        for i, guide in enumerate(guides):
            given = [arg[i] for arg in args]
            start = pyro.poutine.trace(guide).get_trace(*given, train=False).nodes["start"]["value"]
            shift = next(iter(guide.adapted.parameters()))
            found.append(program.network(start + shift, x[i // num_samples]))
        return torch.stack(found).view(-1, num_samples, x.shape[1])

    return Method(meta, arguments, draws, lambda: program.noise.item())


def versa(tasks: int, engine: pm.Engine) -> Method:
    return read_by_an_encoder(Head(), engine)


def neural_process(tasks: int, engine: pm.Engine) -> Method:
    return read_by_an_encoder(Decoder(), engine)


def read_by_an_encoder(model: Head | Decoder, engine: pm.Engine) -> Method:
    guide = SetEncoderGuide(model, Features(2, 64, 64), pooling="mean")
    score = PredictiveLoss(16, vectorize_particles=True, max_plate_nesting=1)
    optim = pyro.optim.Adam({"lr": 2e-3})
    meta = pm.MetaSVI(model, guide, optim, Trace_ELBO(), steps=0, score=score, engine=engine)
    return Method(meta, plain, drawn_from_guides(meta, 100), lambda: model.noise.item())


METHODS = {
    "MAML": maml,
    "ABML": abml,
    "BMAML": bmaml,
    "PLATIPUS": platipus,
    "VERSA": versa,
    "Neural Process": neural_process,
}
