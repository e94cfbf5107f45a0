"""Five ways of Bayesian meta-learning, each a model, a guide, an inner rule and a query objective.

Each function makes one for regression tasks ``(x, y)`` of shapes (rows, 1); :class:`Method` says how its tasks are
given to ``MetaSVI`` and how it predicts. ``examples/sine_line.py`` runs them all:

    ABML      Ravi, Beatson (2019), https://openreview.net/forum?id=rkgpy3C5tX
    BMAML     Yoon et al. (2018), https://arxiv.org/abs/1806.03836
    PLATIPUS  Finn, Xu, Levine (2018), https://arxiv.org/abs/1806.02817
    VERSA     Gordon et al. (2019), https://arxiv.org/abs/1805.09921
    NP        Garnelo et al. (2018), https://arxiv.org/abs/1807.01622

MAML with a point estimate of the weights is what they are compared with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_mean
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import grad

import pyrometa as pm
from pyrometa.guides import ParticleGuide, SetEncoderGuide
from pyrometa.inner import SVGD
from pyrometa.scores import PredictiveLoss

WIDTHS = (1, 40, 40, 1)
Task = tuple[Tensor, ...]


@dataclass(frozen=True)
class Method:
    """A ``MetaSVI``; its arguments for a meta-batch; draws of the regression function, (tasks, draws, rows)."""

    meta: pm.MetaSVI
    arguments: Callable[[Task, Task], tuple[Task, Task]]
    draws: Callable[[Task, Tensor], Tensor]
    noise: Callable[[], float]


def plain(support: Task, query: Task) -> tuple[Task, Task]:
    return support, query


def drawn_from_guides(meta: pm.MetaSVI, num_samples: int) -> Callable[[Task, Tensor], Tensor]:
    @torch.no_grad()
    def draws(support: Task, x: Tensor) -> Tensor:
        found = []
        for guide, rows in zip(meta.adapt_many(support), x, strict=True):
            with pyro.plate("draws", num_samples, dim=-2):
                drawn = poutine.trace(guide).get_trace(rows)
                found.append(poutine.trace(poutine.replay(guide.model, drawn)).get_trace(rows).nodes["mean"]["value"])
        return torch.stack(found).view(len(x), num_samples, -1)

    return draws


class BayesianNetwork(PyroModule):
    """Normal weights, whose means and scales are learned across tasks and have priors of their own."""

    def __init__(self, tasks: int, scale: float = 0.1):
        super().__init__()
        self.tasks = tasks  # in the training set: each brings its share of the priors' priors
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.layers = PyroModule[nn.ModuleList]([Layer(*sizes, scale) for sizes in pairwise(WIDTHS)])

    def forward(self, x, y=None):
        """Observe the network's outputs."""
        pyro.factor("hyperprior", sum(layer.log_hyperprior() for layer in self.layers) / self.tasks)
        h = x[:, None]
        for layer in self.layers[:-1]:
            h = layer(h).tanh()
        observe(self.layers[-1](h)[..., 0, 0], self.noise, y)


class Layer(PyroModule):
    """Weights and bias of a layer, side by side in one site."""

    def __init__(self, fan_in: int, fan_out: int, scale: float):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(fan_out, fan_in + 1) * fan_in**-0.5)
        self.scale = PyroParam(torch.full((fan_out, fan_in + 1), scale), constraint=constraints.positive)
        self.weight = PyroSample(lambda self: dist.Normal(self.loc, self.scale).to_event(2))

    def forward(self, h):
        """Apply the sampled weights."""
        weight = self.weight  # of shape (out, in + 1), or (samples, 1, out, in + 1)
        return h @ weight[..., :-1].mT + weight[..., None, :, -1]

    def log_hyperprior(self):
        """Log density of the prior's own parameters, as in the paper."""
        return dist.Normal(0, 1).log_prob(self.loc).sum() + dist.Gamma(1, 0.1).log_prob(self.scale**-2).sum()


def observe(mean: Tensor, noise: Tensor, y: Tensor | None) -> None:
    with pyro.plate("data", mean.shape[-1]):
        pyro.deterministic("mean", mean)
        pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[:, 0])


class NormalWeights(PyroModule):
    """Independent normals that start as the network's priors, for an analytic KL divergence from them."""

    def __init__(self, network: BayesianNetwork):
        super().__init__()
        for i, layer in enumerate(network.layers):
            setattr(self, f"loc{i}", nn.Parameter(layer.loc.detach().clone()))
            setattr(self, f"scale{i}", PyroParam(layer.scale.detach().clone(), constraint=constraints.positive))

    def forward(self, x, y=None):
        """Sample the weights of every layer."""
        for i in range(len(WIDTHS) - 1):
            normal = dist.Normal(getattr(self, f"loc{i}"), getattr(self, f"scale{i}"))
            pyro.sample(f"layers.{i}.weight", normal.to_event(2))


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

    def arguments(support: Task, query: Task) -> tuple[Task, Task]:
        return support, tuple(torch.cat(pair, 1) for pair in zip(support, query, strict=True))

    return Method(meta, arguments, drawn_from_guides(meta, 100), lambda: model.noise.item())


def bmaml(tasks: int, engine: pm.Engine, steps: int = 5, particles: int = 5) -> Method:
    model = BayesianNetwork(tasks)
    together = {"num_particles": particles, "vectorize_particles": True, "max_plate_nesting": 1}
    guide, inner = ParticleGuide(model, particles, 1), SVGD(5e-3, learn="layer", outer_lr=1e-2)
    loss, score = Trace_ELBO(**together), PredictiveLoss(**together)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), loss, inner, steps, score=score, engine=engine)
    return Method(meta, plain, drawn_from_guides(meta, particles), lambda: model.noise.item())


class Platipus(PyroModule):
    """A distribution of starting points: one is drawn for each task, and moves from there by ``shift``.

    In training it is drawn near where the query set pulls it, and is held to the distribution that the support
    set gives, from which it is drawn at test.
    """

    def __init__(self):
        super().__init__()
        shapes = [(fan_out, fan_in + 1) for fan_in, fan_out in pairwise(WIDTHS)]
        start = torch.cat([torch.randn(shape).flatten() * (shape[1] - 1) ** -0.5 for shape in shapes])
        self.shapes, self.size = shapes, len(start)
        self.loc, self.shift = nn.Parameter(start), nn.Parameter(torch.zeros_like(start))
        for name, value in (("prior", 0.1), ("posterior", 0.05)):
            setattr(self, f"{name}_scale", PyroParam(torch.full_like(start, value), constraint=constraints.positive))
            setattr(self, f"{name}_rate", PyroParam(torch.tensor(1e-4), constraint=constraints.positive))
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def network(self, weights: Tensor, x: Tensor) -> Tensor:
        """The network with all its weights in one vector."""
        *hidden, last = (
            part.view(shape)
            for part, shape in zip(weights.split([a * b for a, b in self.shapes]), self.shapes, strict=True)
        )
        for weight in hidden:
            x = (x @ weight[:, :-1].T + weight[:, -1]).tanh()
        return (x @ last[:, :-1].T + last[:, -1])[:, 0]

    def pulled(self, name: str, x: Tensor, y: Tensor) -> dist.Normal:
        """Around the mean after one gradient step on some data."""

        def misfit(weights: Tensor) -> Tensor:
            return -dist.Normal(self.network(weights, x), self.noise).log_prob(y[:, 0]).sum()

        loc = self.loc - getattr(self, f"{name}_rate") * grad(misfit)(self.loc)
        return dist.Normal(loc, getattr(self, f"{name}_scale"))

    def model(self, x, y, support_x, support_y, query_x, query_y, draw, train=True):
        """The start from what the support set gives, and the data from where it has moved to."""
        start = pyro.sample("start", self.pulled("prior", support_x, support_y).to_event(1))
        observe(self.network(start + self.shift, x), self.noise, y)

    def guide(self, x, y, support_x, support_y, query_x, query_y, draw, train=True):
        """The start at the given noise."""
        by = ("posterior", query_x, query_y) if train else ("prior", support_x, support_y)
        normal = self.pulled(*by)
        start = normal.loc + normal.scale * draw
        pyro.sample("start", dist.Delta(start, normal.log_prob(start).sum(), event_dim=1))


def platipus(tasks: int, engine: pm.Engine, steps: int = 5, num_samples: int = 10) -> Method:
    program = Platipus()
    inner, optim = pm.SGD(1e-3, learn="layer", outer_lr=1e-2), pyro.optim.Adam(adam_for_scales)
    options = {"adapt": "*.shift", "engine": engine}
    meta = pm.MetaSVI(program.model, program.guide, optim, Trace_ELBO(), inner, steps, **options)

    def arguments(support: Task, query: Task) -> tuple[Task, Task]:
        draw = torch.randn(len(support[0]), program.size)  # the same start for the support and the query set
        return (*support, *support, *query, draw), (*query, *support, *query, draw)

    @torch.no_grad()
    def draws(support: Task, x: Tensor) -> Tensor:
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


class Features(nn.Module):
    """A perceptron of several inputs side by side."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, *inputs):
        """Read the columns of all inputs."""
        return self.layers(torch.cat(inputs, -1))


class Head(PyroModule):
    """Features that all tasks share, and a linear head of each task."""

    def __init__(self, features: int = 40):
        super().__init__()
        self.features, self.size = Features(1, 40, features), features
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x, y=None):
        """Observe the head's outputs."""
        head = pyro.sample("head", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
        observe((self.features(x) * head).sum(-1), self.noise, y)


class Decoder(PyroModule):
    """A function of the input and of one latent of the task."""

    def __init__(self, latent: int = 32):
        super().__init__()
        self.decoder, self.latent = Features(1 + latent, 64, 1), latent
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x, y=None):
        """Observe the decoder's outputs."""
        z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
        shape = torch.broadcast_shapes(z.shape[:-1], (len(x),))
        observe(self.decoder(x.expand(*shape, 1), z.expand(*shape, self.latent))[..., 0], self.noise, y)


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
