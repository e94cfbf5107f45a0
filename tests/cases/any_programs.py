"""Programs of the kinds that people fit: discrete latents, hierarchies, networks, subsamples, several data, gaps."""

from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

TASKS, F64 = 3, torch.float64


@dataclass
class Kind:
    """A program in float64, tasks for it, and the options that it needs."""

    model: object
    guide: object
    support: object
    query: object = None
    loss: object = field(default_factory=Trace_ELBO)
    adapt: str = "guide"


def double(*values):
    return torch.tensor(values, dtype=F64)


def enumerated(nesting=1):
    return TraceEnum_ELBO(max_plate_nesting=nesting)


@config_enumerate
def mixture_model(x):
    weights = pyro.sample("weights", dist.Dirichlet(x.new_ones(2)))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(x.new_zeros(2), 3.0))
        scales = pyro.sample("scales", dist.LogNormal(x.new_zeros(2), 0.5))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[k], scales[k]), obs=x)


def clusters(rows):
    return torch.where(torch.rand(TASKS, rows) < 0.4, -2.0, 2.0).double() + 0.5 * torch.randn(TASKS, rows, dtype=F64)


def gaussian_mixture():
    starts = {"weights": double(0.4, 0.6), "locs": double(-1.0, 1.5), "scales": double(1.0, 0.8)}
    hidden = poutine.block(mixture_model, hide=["k"])
    guide = AutoNormal(hidden, init_loc_fn=lambda site: starts[site["name"]], init_scale=0.1)
    return Kind(mixture_model, guide, clusters(6), clusters(7), enumerated())


def hmm_model(x):
    rows = len(x)
    transition = pyro.sample("transition", dist.Dirichlet(x.new_ones(2, 2)).to_event(1))
    locs = pyro.sample("locs", dist.Normal(x.new_zeros(2), 3.0).to_event(1))
    with pyro.plate("sequences", rows):
        k = 0
        for t in pyro.markov(range(x.shape[1])):
            k = pyro.sample(f"k_{t}", dist.Categorical(transition[k]), infer={"enumerate": "parallel"})
            pyro.sample(f"x_{t}", dist.Normal(locs[k], 0.7), obs=x[:, t])


def hidden_markov():
    starts = {"transition": torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=F64), "locs": double(-1.0, 1.0)}
    guide = AutoDelta(
        poutine.block(hmm_model, expose=["transition", "locs"]), init_loc_fn=lambda site: starts[site["name"]]
    )
    x = torch.randn(TASKS, 5, 4, dtype=F64)
    return Kind(hmm_model, guide, x[:, :2], x[:, 2:], enumerated())


def side_by_side(*parts):
    """Columns together, whatever dimensions enumeration has put to the left."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)


class SemiSupervised(nn.Module):
    """M2 of Kingma (2014): labels of some rows are given, those of the others are enumerated in the guide."""

    def __init__(self):
        super().__init__()
        self.label, self.encode, self.decode = nn.Linear(3, 2), nn.Linear(5, 2), nn.Linear(3, 3)
        self.double()

    def model(self, x, y, unlabelled):
        for part, rows, given in (("labelled", x, y), ("unlabelled", unlabelled, None)):
            with pyro.plate(part, len(rows)):
                z = pyro.sample(f"z_{part}", dist.Normal(rows.new_zeros(len(rows), 1), 1.0).to_event(1))
                label = pyro.sample(f"y_{part}", dist.OneHotCategorical(rows.new_ones(2)), obs=given)
                mean = self.decode(side_by_side(z, label))
                pyro.sample(f"x_{part}", dist.Normal(mean, 0.5).to_event(1), obs=rows)

    def guide(self, x, y, unlabelled):
        for part, rows, label in (("labelled", x, y), ("unlabelled", unlabelled, None)):
            with pyro.plate(part, len(rows)):
                if label is None:
                    logits = self.label(rows)
                    label = pyro.sample(
                        f"y_{part}", dist.OneHotCategorical(logits=logits), infer={"enumerate": "parallel"}
                    )
                loc, log_scale = self.encode(side_by_side(rows, label)).chunk(2, -1)
                pyro.sample(f"z_{part}", dist.Normal(loc, log_scale.exp()).to_event(1))


def semi_supervised():
    program = SemiSupervised()
    labels = torch.eye(2, dtype=F64)[torch.randint(2, (2, TASKS, 2))]
    sets = [(torch.randn(TASKS, 2, 3, dtype=F64), y, torch.randn(TASKS, 3, 3, dtype=F64)) for y in labels]
    return Kind(program.model, program.guide, *sets, enumerated(), adapt="both")


def hierarchical_model(group, y):
    """Rows in groups, groups in a task: partial pooling at two levels."""
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(()), 2.0))
    spread = pyro.sample("spread", dist.LogNormal(y.new_zeros(()), 0.5))
    with pyro.plate("groups", 3):
        offset = pyro.sample("offset", dist.Normal(mean, spread))
    with pyro.plate("data", len(y)):
        pyro.sample(
            "y", dist.Normal(offset[..., group], pyro.param("noise", double(0.6)[0], constraints.positive)), obs=y
        )


def hierarchical():
    support, query = ((torch.randint(3, (TASKS, n)), torch.randn(TASKS, n, dtype=F64)) for n in (6, 5))
    return Kind(hierarchical_model, AutoNormal(hierarchical_model, init_scale=0.3), support, query)


class Network(PyroModule):
    """A Bayesian network of PyroSample weights, with learned prior scales."""

    def __init__(self):
        super().__init__()
        self.spread = PyroParam(double(1.2)[0], constraint=constraints.positive)
        for name, sizes in (("hidden", (1, 3)), ("output", (3, 1))):
            layer = PyroModule[nn.Linear](*sizes)
            shape = layer.weight.shape
            zeros = torch.zeros(shape, dtype=F64)
            layer.weight = PyroSample(lambda _, zeros=zeros: dist.Normal(zeros, self.spread).to_event(2))
            layer.bias = PyroSample(dist.Normal(zeros[:, 0], 1.0).to_event(1))
            setattr(self, name, layer)

    def forward(self, x, y):
        mean = self.output(torch.tanh(self.hidden(x)))[..., 0]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def network():
    model = Network()
    support, query = ((torch.randn(TASKS, n, 1, dtype=F64), torch.randn(TASKS, n, dtype=F64)) for n in (4, 5))
    return Kind(model, AutoDiagonalNormal(model, init_scale=0.2), support, query)


def subsampled():
    """An amortised local latent and a global one; each loss sees three rows of the task."""

    def model(x):
        gain = pyro.sample("gain", dist.Normal(x.new_ones(2), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=3):
            rows = pyro.subsample(x, event_dim=1)
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * gain, 0.8).to_event(1), obs=rows)

    def guide(x):
        pyro.sample("gain", dist.Normal(pyro.param("gain_loc", double(0.8, 1.1)), 0.2).to_event(1))
        with pyro.plate("data", len(x), subsample_size=3):
            rows = pyro.subsample(x, event_dim=1)
            scale = pyro.param("z_scale", double(0.5)[0], constraint=constraints.positive)
            pyro.sample("z", dist.Normal(rows @ pyro.param("z_weight", double(0.3, 0.2)), scale))

    x = torch.randn(TASKS, 11, 2, dtype=F64)
    return Kind(model, guide, x[:, :5], x[:, 5:])


def several_observed_model(x, count, label):
    rate = pyro.sample("rate", dist.LogNormal(x.new_zeros(()), 1.0))
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(slope * rate, 1.0), obs=x)
        pyro.sample("count", dist.Poisson(rate), obs=count)
    with pyro.plate("labels", len(label)):
        pyro.sample("label", dist.Bernoulli(logits=slope), obs=label)


def several_observed():
    def data(n):
        x, rate = torch.randn(TASKS, n, dtype=F64), torch.full((TASKS, n), 2.0, dtype=F64)
        return x, torch.poisson(rate), torch.rand(TASKS, n + 1, dtype=F64).round()

    return Kind(several_observed_model, AutoNormal(several_observed_model, init_scale=0.3), data(4), data(5))


def missing_model(x, seen):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("columns", 2, dim=-1), pyro.plate("data", len(x), dim=-2), poutine.mask(mask=seen):
        pyro.sample("x", dist.Normal(loc[..., None, :], scale), obs=x)


def missing():
    """Gaps in the data, in other places of each task; what is in a gap does not count."""
    support, query = ((torch.randn(TASKS, n, 2, dtype=F64), torch.rand(TASKS, n, 2) < 0.7) for n in (4, 5))
    return Kind(missing_model, AutoNormal(missing_model, init_scale=0.3), support, query)


KINDS = [
    gaussian_mixture,
    hidden_markov,
    semi_supervised,
    hierarchical,
    network,
    subsampled,
    several_observed,
    missing,
]
