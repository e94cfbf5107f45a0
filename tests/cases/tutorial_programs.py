"""The programs of Pyro's tutorials and examples, in our words: nothing in them knows of tasks or of pyrometa."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints
from tutorial import TASKS, Tutorial
from tutorial_mixtures import dirichlet_process, hidden_markov, mixture, mixture_with_assignment_probabilities
from tutorial_networks import deep_markov, semi_supervised_vae, vae


def coin_model(data):
    """SVI part I: a coin, one sample statement a throw."""
    fairness = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    for i in range(len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(fairness), obs=data[i])


def coin_guide(data):
    alpha_q = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
    beta_q = pyro.param("beta_q", torch.tensor(15.0), constraint=constraints.positive)
    pyro.sample("latent_fairness", dist.Beta(alpha_q, beta_q))


def coin():
    heads = torch.rand(TASKS, 2, 6).lt(0.7).float()
    return Tutorial(coin_model, coin_guide, heads[:, 0], heads[:, 1], first_order=True, looped="vmap")


def coin_in_a_plate():
    """SVI part II: the throws in a plate, five of them at a time."""

    def model(data):
        fairness = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
        with pyro.plate("observe_data", size=len(data), subsample_size=5) as ind:
            pyro.sample("obs", dist.Bernoulli(fairness), obs=data.index_select(0, ind))

    heads = torch.rand(TASKS, 8).lt(0.7).float()
    return Tutorial(model, coin_guide, heads, first_order=True, looped="vmap")


class BayesianRegression(PyroModule):
    """Bayesian regression, part I: GDP on ruggedness and continent, weights as PyroSample."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, out_features)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([out_features, in_features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([out_features]).to_event(1))

    def forward(self, x, y=None):
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def countries():
    """Columns such as those of the rugged data: whether in Africa, ruggedness, and log GDP."""
    africa, rugged = torch.rand(TASKS, 12).lt(0.4).to(torch.get_default_dtype()), torch.rand(TASKS, 12)
    return africa, rugged, 9 - 1.8 * africa - 0.2 * rugged + 0.5 * africa * rugged + 0.3 * torch.randn(TASKS, 12)


def rugged_autoguide():
    africa, rugged, gdp = countries()
    x = torch.stack([africa, rugged, africa * rugged], -1)
    model = BayesianRegression(3, 1)
    return Tutorial(model, AutoDiagonalNormal(model), (x[:, :6], gdp[:, :6]), (x[:, 6:], gdp[:, 6:]), lr=1e-4)


def rugged_by_hand():
    """Bayesian regression, part II: the same regression with a guide of bare parameters."""

    def model(is_cont_africa, ruggedness, log_gdp):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        b_a = pyro.sample("bA", dist.Normal(0.0, 1.0))
        b_r = pyro.sample("bR", dist.Normal(0.0, 1.0))
        b_ar = pyro.sample("bAR", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = a + b_a * is_cont_africa + b_r * ruggedness + b_ar * is_cont_africa * ruggedness
        with pyro.plate("data", len(ruggedness)):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=log_gdp)

    def guide(is_cont_africa, ruggedness, log_gdp):
        a_loc, a_scale = pyro.param("a_loc", torch.tensor(0.0)), positive("a_scale", 1.0)
        sigma_loc = positive("sigma_loc", 1.0)
        weights_loc, weights_scale = pyro.param("weights_loc", torch.randn(3)), positive("weights_scale", [1.0] * 3)
        pyro.sample("a", dist.Normal(a_loc, a_scale))
        for i, name in enumerate(("bA", "bR", "bAR")):
            pyro.sample(name, dist.Normal(weights_loc[i], weights_scale[i]))
        pyro.sample("sigma", dist.Normal(sigma_loc, torch.tensor(0.05)))

    columns = countries()
    support, query = (tuple(column[:, half] for column in columns) for half in (slice(6), slice(6, 12)))
    return Tutorial(model, guide, support, query, lr=1e-4)


def positive(name, value):
    return pyro.param(name, torch.tensor(value), constraint=constraints.positive)


def eight_schools():
    """The eight schools example: effects of coaching, with the school's own standard errors as data."""

    def model(data):
        y, sigma = data[:, 0], data[:, 1]
        with pyro.plate("schools", len(data)):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfCauchy(scale=25.0))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)

    def guide(data):
        m_eta, s_eta = pyro.param("loc_eta", torch.zeros(8)), positive("scale_eta", [0.1] * 8)
        m_mu, s_mu = pyro.param("loc_mu", torch.zeros(1)), positive("scale_mu", [0.1])
        m_log_tau, s_log_tau = pyro.param("loc_logtau", torch.zeros(1)), positive("scale_logtau", [0.1])
        with pyro.plate("schools", len(data)):
            pyro.sample("eta", dist.Normal(m_eta, s_eta))
        pyro.sample("mu", dist.Normal(m_mu[0], s_mu[0]))
        log_tau = dist.Normal(m_log_tau[0], s_log_tau[0])
        pyro.sample("tau", dist.TransformedDistribution(log_tau, [dist.transforms.ExpTransform()]))

    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    data = torch.stack([torch.stack([y + 2 * torch.randn(8), sigma], -1) for _ in range(TASKS)])
    return Tutorial(model, guide, data, lr=1e-4)


TUTORIALS = [
    coin,
    coin_in_a_plate,
    rugged_autoguide,
    rugged_by_hand,
    vae,
    mixture,
    mixture_with_assignment_probabilities,
    dirichlet_process,
    hidden_markov,
    eight_schools,
    semi_supervised_vae,
    deep_markov,
]
