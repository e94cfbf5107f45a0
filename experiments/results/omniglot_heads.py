"""One network and its heads for few-shot classification: Pyro programs, and the ``MetaSVI`` of each.

    prototypes  Snell et al. (2017), https://arxiv.org/abs/1703.05175
    VERSA       Gordon et al. (2019), https://arxiv.org/abs/1805.09921
    MAML        Finn et al. (2017), https://arxiv.org/abs/1703.03400, of the head alone as Raghu et al. (2020),
                https://arxiv.org/abs/1909.09157
    ABML        Ravi, Beatson (2019), https://openreview.net/forum?id=rkgpy3C5tX

Each model is p(y | x, head) with labels ``y`` of shape (images,) and ``x`` the images, of shape (images, 1, 28, 28), or
where ``features`` is :class:`Ready` the features that were computed of them before, of shape (images, features).
"""

import functools
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.nn import functional

import pyrometa as pm
from pyrometa.guides import AmortizedGuide

Program = Callable[..., Any]

STEPS = 5
LR = 3e-3  # of the outer loop, where it begins
LINEAR_LR = 3e-4  # of linear heads, the best of 3e-3, 1e-3 and 3e-4 on characters kept back
ALL_STEPS, ALL_LR = 3, 1e-4  # where all layers adapt
ALL_RATES = {
    1: {"model.features.*": 0.01, "model.head.*": 0.4},
    5: {"model.features.*": 0.001, "model.head.*": 0.1},
}
"""Where they begin, by the number of shots."""


class Normalization(nn.Module):
    """Batch normalisation without running averages: by the images' own statistics, or by ``fixed`` ones."""

    def __init__(self, channels: int, fixed: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of ``x``, ``(images, channels, height, width)``."""
        statistics = (self.mean, self.variance) if self.fixed else (None, None)
        return functional.batch_norm(x, *statistics, self.weight, self.bias, training=not self.fixed)

    def fix(self, x: Tensor) -> None:
        """Normalise by the statistics of these images from now on."""
        self.variance, self.mean = torch.var_mean(x, (0, 2, 3))
        self.fixed = True


class Features(nn.Sequential):
    """MAML's network for Omniglot: four convolutions of stride 2 with batch normalisation, 28 pixels to 2."""

    def __init__(self, channels: int, *, fixed: bool) -> None:
        blocks = [
            (nn.Conv2d(*pair, kernel_size=3, stride=2, padding=1), Normalization(pair[1], fixed), nn.ReLU())
            for pair in pairwise([1, *[channels] * 4])
        ]
        super().__init__(*(layer for block in blocks for layer in block), nn.Flatten())
        self.size = 4 * channels

    @torch.no_grad()
    def fix(self, images: Tensor) -> None:
        """Normalise by the statistics of these images from now on: each image's features are then its own affair."""
        for layer in self:
            if isinstance(layer, Normalization):
                layer.fix(images)
            images = layer(images)


class Ready(nn.Identity):
    """Features that were computed before, of some size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Standardized(nn.Module):
    """Features of mean zero and variance one for each image: inner products then compare images as distances do."""

    def __init__(self, features: Features | Ready) -> None:
        super().__init__()
        self.features, self.size = features, features.size

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(images, features)``."""
        return functional.layer_norm(self.features(x), (self.size,))


def class_means(features: Tensor, y: Tensor, ways: int) -> Tensor:
    """Means of the rows of each class, ``(ways, features)``."""
    belongs = (y[:, None] == torch.arange(ways)).to(features)
    return belongs.mT @ features / belongs.sum(0)[:, None]


class PrototypeGuide(nn.Module):
    """q(prototypes | S): each at the mean of its class's features, and from there by ``shift``, which may adapt."""

    def __init__(self, features: Features | Ready, ways: int) -> None:
        super().__init__()
        self.features, self.ways = features, ways
        self.shift = nn.Parameter(torch.zeros(ways, features.size))

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Given this data."""
        prototypes = class_means(self.features(x), y, self.ways) + self.shift
        with pyro.plate("ways", self.ways):
            pyro.sample("prototypes", dist.Delta(prototypes, event_dim=1))

    def condition(self, x: Tensor, y: Tensor) -> Program:
        """Given a support set, for any query."""
        return lambda *query: self(x, y)


class Prototypes(nn.Module):
    """A class is as likely as its prototype is near."""

    def __init__(self, features: Features | Ready, ways: int) -> None:
        super().__init__()
        self.features, self.ways = features, ways
        self.log_closeness = nn.Parameter(torch.tensor(-math.log(features.size) / 2))
        self.log_scale = nn.Parameter(torch.tensor(0.0))  # of the prototypes' prior

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Prototypes from their prior, then labels ``y`` of images ``x``."""
        with pyro.plate("ways", self.ways):
            prior = dist.Normal(x.new_zeros(self.features.size), self.log_scale.exp())
            prototypes = pyro.sample("prototypes", prior.to_event(1))
        f = self.features(x)
        distance = f.square().sum(-1, keepdim=True) - 2 * f @ prototypes.mT + prototypes.square().sum(-1)[..., None, :]
        observe(-distance * self.log_closeness.exp(), y)


class Point(nn.Module):
    """A linear head that is a parameter, and adapts."""

    def __init__(self, features: Features | Ready | Standardized, ways: int) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(features.size, ways)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Labels ``y`` of images ``x``."""
        observe(self.head(self.features(x)), y)


class Latent(nn.Module):
    """A linear head that is latent, its weights and bias side by side; the prior is learned."""

    def __init__(self, features: Features | Ready | Standardized, ways: int) -> None:
        super().__init__()
        self.features, self.ways = features, ways
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(features.size + 1)) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Each class's head from the prior, then labels ``y`` of images ``x``."""
        with pyro.plate("ways", self.ways):
            head = pyro.sample("head", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        observe(self.features(x) @ head[..., :-1].mT + head[..., None, :, -1], y)


def observe(logits: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


class ClassEncoder(nn.Module):
    """What VERSA reads a class's head off: its mean features, their square, and a network of them."""

    def __init__(self, features: Features | Ready, ways: int) -> None:
        super().__init__()
        self.features, self.ways = features, ways
        self.network = nn.Sequential(nn.Linear(features.size, features.size), nn.ELU(), nn.LayerNorm(features.size))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Shape ``(ways, 2 features + 1)``."""
        means = class_means(self.features(x), y, self.ways)
        return torch.cat([means, means.square().mean(-1, keepdim=True), self.network(means)], -1)


class VersaGuide(AmortizedGuide):
    """q(head | S), class by class."""

    def condition(self, x: Tensor, y: Tensor) -> Program:
        """Given a support set, for any query."""
        return lambda *query: self(x, y)


def class_logits(model: Program, guide: Program, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """Logits of the classes for draws from the guide, ``(draws, images, ways)``; they do not depend on ``y``."""
    with pyro.plate("draws", draws, dim=-2):
        drawn = poutine.trace(guide).get_trace(x, y)
        logits = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(x, y).nodes["y"]["fn"].logits
    return logits.expand(draws, len(x), -1)


def predictive_nll(model: Program, guide: Program, x: Tensor, y: Tensor, *, draws: int) -> Tensor:
    """What the outer loop minimises: each label's negative log likelihood under the mean of the draws, summed."""
    log_p = class_logits(model, guide, x, y, draws).log_softmax(-1).logsumexp(0) - math.log(draws)
    return -log_p.gather(-1, y[:, None]).sum()


def prototypes(features: Features | Ready, ways: int, steps: int = 0, lr: float = LR) -> pm.MetaSVI:
    model, guide = Prototypes(features, ways), PrototypeGuide(features, ways)
    return meta_svi(model, guide, steps, "guide.shift", 0.1, draws=1, lr=lr)


def versa(features: Features | Ready, ways: int) -> pm.MetaSVI:
    model = Latent(features, ways)
    return meta_svi(model, VersaGuide(model, ClassEncoder(features, ways)), 0, "guide", 0.1, draws=5)


def maml(features: Features | Ready, ways: int) -> pm.MetaSVI:
    return meta_svi(Point(Standardized(features), ways), point, STEPS, "model.head.*", 0.1, draws=1, lr=LINEAR_LR)


def abml(features: Features | Ready, ways: int) -> pm.MetaSVI:
    model = Latent(Standardized(features), ways)
    start = {"head": torch.zeros(ways, features.size + 1)}
    guide = AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=0.02)
    return meta_svi(model, guide, STEPS, "guide", 0.1, draws=5, lr=LINEAR_LR)


def maml_of_all_layers(features: Features, ways: int, shots: int) -> pm.MetaSVI:
    """The features, which have been trained before, move with the head."""
    model = Point(Standardized(features), ways)
    return meta_svi(model, point, ALL_STEPS, "model", ALL_RATES[shots], draws=1, lr=ALL_LR)


def point(x: Tensor, y: Tensor) -> None:
    """The guide of a model without latents."""


def meta_svi(
    model: Program,
    guide: Program,
    steps: int,
    adapt: str,
    rate: float | Mapping[str, float],
    draws: int,
    lr: float = LR,
) -> pm.MetaSVI:
    """A learned rate for each layer and step; the query set is scored by the posterior predictive of its labels."""
    return pm.MetaSVI(
        model,
        guide,
        pyro.optim.Adam({"lr": lr}),
        loss=Trace_ELBO(),
        inner=pm.SGD(rate, learn="layer_step", outer_lr=1e-2),
        steps=steps,
        adapt=adapt,
        reduction="mean",
        score=functools.partial(predictive_nll, draws=draws),
        engine=pm.Engine(chunk_size=50, record=False),
    )
