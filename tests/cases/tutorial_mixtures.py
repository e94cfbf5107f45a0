"""Pyro's tutorial programs with discrete latents."""

from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta
from torch import nn
from torch.distributions import constraints
from tutorial import TASKS, Tutorial

K = 2


@config_enumerate
def mixture_model(data):
    """The Gaussian mixture tutorial: assignments summed out."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(K)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", K):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def clusters(rows):
    return torch.randn(TASKS, rows) * 0.3 + torch.where(torch.rand(TASKS, rows) < 0.4, 0.0, 5.0)


def mixture():
    def init_loc_fn(site):
        starts = {"weights": torch.ones(K) / K, "scale": torch.tensor(2.0), "locs": torch.tensor([1.0, 4.0])}
        return starts[site["name"]]

    exposed = poutine.block(mixture_model, expose=["weights", "locs", "scale"])
    guide = AutoDelta(exposed, init_loc_fn=init_loc_fn)
    return Tutorial(mixture_model, guide, clusters(8), clusters(9), TraceEnum_ELBO(max_plate_nesting=1), lr=1e-2)


def mixture_with_assignment_probabilities():
    """The same tutorial's second guide: a vector of probabilities for each datum, enumerated in the guide."""
    exposed = poutine.block(mixture_model, expose=["weights", "locs", "scale"])
    starts = {"weights": torch.ones(K) / K, "scale": torch.tensor(2.0), "locs": torch.tensor([1.0, 4.0])}
    global_guide = AutoDelta(exposed, init_loc_fn=lambda site: starts[site["name"]])

    @config_enumerate
    def full_guide(data):
        with poutine.block(hide_types=["param"]):
            global_guide(data)
        with pyro.plate("data", len(data)):
            probs = pyro.param("assignment_probs", torch.ones(len(data), K) / K, constraint=constraints.unit_interval)
            pyro.sample("assignment", dist.Categorical(probs))

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Tutorial(mixture_model, full_guide, clusters(8), loss=loss, adapt="guide.assignment_probs", lr=1e-2)


T = 4


def dirichlet_process():
    """The Dirichlet process tutorial: a truncated stick-breaking mixture with a parameter vector for each datum."""

    def mix_weights(beta):
        beta1m_cumprod = (1 - beta).cumprod(-1)
        return nn.functional.pad(beta, (0, 1), value=1) * nn.functional.pad(beta1m_cumprod, (1, 0), value=1)

    def model(data):
        with pyro.plate("beta_plate", T - 1):
            beta = pyro.sample("beta", dist.Beta(1, 0.5))
        with pyro.plate("mu_plate", T):
            mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2)))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(mix_weights(beta)))
            pyro.sample("obs", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)

    def guide(data):
        kappa = pyro.param("kappa", lambda: dist.Uniform(0, 2).sample([T - 1]), constraint=constraints.positive)
        tau = pyro.param("tau", lambda: dist.MultivariateNormal(torch.zeros(2), 3 * torch.eye(2)).sample([T]))
        phi = pyro.param(
            "phi", lambda: dist.Dirichlet(1 / T * torch.ones(T)).sample([len(data)]), constraint=constraints.simplex
        )
        with pyro.plate("beta_plate", T - 1):
            pyro.sample("beta", dist.Beta(torch.ones(T - 1), kappa))
        with pyro.plate("mu_plate", T):
            pyro.sample("mu", dist.MultivariateNormal(tau, torch.eye(2)))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Categorical(phi))

    data = torch.randn(TASKS, 6, 2) + 3 * torch.randn(TASKS, 1, 2)
    return Tutorial(model, guide, data, loss=Trace_ELBO(), first_order=True, looped="vmap")


def hidden_markov():
    """The first model of the HMM example: chords, tones and sequences of several lengths."""
    args = SimpleNamespace(hidden_dim=2)

    def model(sequences, lengths):
        num_sequences, max_length, data_dim = sequences.shape
        probs_x = pyro.sample("probs_x", dist.Dirichlet(0.9 * torch.eye(args.hidden_dim) + 0.1).to_event(1))
        probs_y = pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([args.hidden_dim, data_dim]).to_event(2))
        tones_plate = pyro.plate("tones", data_dim, dim=-1)
        with pyro.plate("sequences", num_sequences, dim=-2) as batch:
            lengths = lengths[batch]
            x = 0
            for t in pyro.markov(range(max_length)):
                with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                    x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]), infer={"enumerate": "parallel"})
                    with tones_plate:
                        pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x.squeeze(-1)]), obs=sequences[batch, t])

    guide = AutoDelta(poutine.block(model, expose=["probs_x", "probs_y"]), init_loc_fn=lambda site: start[site["name"]])
    start = {"probs_x": torch.tensor([[0.7, 0.3], [0.4, 0.6]]), "probs_y": torch.tensor([[0.2, 0.5, 0.3]] * 2)}
    sequences, lengths = torch.rand(2, TASKS, 3, 4, 3).round(), torch.randint(1, 5, (2, TASKS, 3))
    loss = TraceEnum_ELBO(max_plate_nesting=2)
    return Tutorial(model, guide, (sequences[0], lengths[0]), (sequences[1], lengths[1]), loss)
