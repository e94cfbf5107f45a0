"""Programs that can be pickled, and what is done with them in other processes: all at the top of a module."""

import functools

import pyro
import pyro.distributions as dist
import torch
from meta_cases import values
from programs import DIM, Case, Decoder, Encoder, TutorialVAE, rows
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.utils.data import Dataset


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


def normal_model(x):
    z = pyro.sample("z", dist.Normal(scalar(0.0), 5.0))
    s = pyro.sample("s", dist.LogNormal(scalar(0.0), 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, s).expand([len(x), DIM]).to_event(1), obs=x)


def bare_model(x):
    noise = pyro.param("noise", scalar(0.8), constraint=constraints.positive)
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(DIM), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)


def bare_guide(x):
    mean = pyro.param("mean", x.new_full((DIM,), 0.3))
    scale = pyro.param("scale", x.new_full((DIM,), 0.5), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(mean, scale).to_event(1))


def discrete_model(x):
    rate = pyro.sample("rate", dist.Bernoulli(scalar(0.3)))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(rate, 1.0).expand([len(x), DIM]).to_event(1), obs=x)


def discrete_guide(x):
    pyro.sample("rate", dist.Bernoulli(logits=pyro.param("logit", scalar(0.2))))


class LearnedPrior(PyroModule):
    """Its parameters are in what an autoguide keeps of its first run."""

    def __init__(self):
        super().__init__()
        self.spread = PyroParam(scalar(1.5), constraint=constraints.positive)
        self.mean = nn.Linear(1, 1).double()

    def forward(self, x):
        z = pyro.sample("z", dist.Normal(self.mean(x.new_ones(1)).squeeze(), self.spread))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).expand([len(x), DIM]).to_event(1), obs=x)


class SupportGuide(nn.Module):
    """It is conditioned on the support set."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(DIM, 2).double()

    def condition(self, x):
        loc, log_scale = self.encoder(x).mean(0).unbind(-1)

        def guide(x):
            pyro.sample("loc", dist.Normal(loc, log_scale.exp()).expand([DIM]).to_event(1))

        return guide

    def forward(self, x):
        return self.condition(x)(x)


def fixed_model(x):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(DIM), 2.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class Holder:
    """Not a module, but it holds them."""

    def __init__(self):
        self.vae = TutorialVAE().double()

    def model(self, x):
        return self.vae.model(x)

    def guide(self, x):
        return self.vae.guide(x)


def with_first(_, x):
    return normal_model(x)


def case(model, guide):
    return Case(model, guide, rows(), rows())


def bare():
    return case(bare_model, bare_guide)


def discrete():
    return case(discrete_model, discrete_guide)


def modules():
    return case(Decoder().double(), Encoder().double())


def methods():
    vae = TutorialVAE().double()
    return case(vae.model, vae.guide)


def held():
    holder = Holder()
    return case(holder.model, holder.guide)


def partial():
    return case(functools.partial(with_first, None), AutoNormal(normal_model))


def scaled():
    return case(poutine.scale(normal_model, scale=0.5), AutoNormal(normal_model))


def learned_prior():
    model = LearnedPrior()
    return case(model, AutoMultivariateNormal(model))


def parts():
    guide = AutoGuideList(normal_model)
    guide.append(AutoNormal(poutine.block(normal_model, expose=["z"])))
    guide.append(AutoDelta(poutine.block(normal_model, expose=["s"])))
    return case(normal_model, guide)


def conditioned():
    return case(fixed_model, SupportGuide())


PORTABLE = [bare, discrete, modules, methods, held, partial, scaled, learned_prior, parts, conditioned]

ENCODER = nn.Linear(DIM, 2).double()


def global_guide(x):
    pyro.module("encoder", ENCODER)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(ENCODER(x)[:, :1], ENCODER(x)[:, 1:].exp()).to_event(1))


def global_module():
    return case(Decoder().double(), global_guide)


def adapted(meta, task):
    torch.manual_seed(3)
    return values_of(meta.adapt(task))


def values_of(guide):
    return {name: value.detach() for name, value in guide.adapted.by_name().items()}


def stepped(meta, x):
    torch.manual_seed(4)
    meta.step(x)
    return values(meta)


def drawn(guide, x):
    torch.manual_seed(5)
    trace = poutine.trace(guide).get_trace(x)
    poutine.trace(poutine.replay(guide.model, trace=trace)).get_trace(x)
    return {name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes}


class Adapting(Dataset):
    """Each item is a task's adapted parameters, and draws of its guide."""

    def __init__(self, meta, guide, tasks):
        self.meta, self.guide, self.tasks = meta, guide, tasks

    def __len__(self):
        return len(self.tasks)

    def __getitem__(self, i):
        return {**adapted(self.meta, self.tasks[i]), **drawn(self.guide, self.tasks[i])}


def away(meta, guide, x):
    """What another process makes of them, as plain numbers; its own training must not be seen here."""
    torch.set_num_threads(1)
    found = {**adapted(meta, x[0]), **drawn(guide, x[0])}
    after = stepped(meta, x)
    names = sorted(pyro.get_param_store().keys())
    return [{name: value.tolist() for name, value in part.items()} for part in (found, after)], names
