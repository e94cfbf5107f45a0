"""gpytorch's two ways into Pyro: PyroGP, and ApproximateGP with ``pyro_model`` and ``pyro_guide``."""

import gpytorch
import pyro
import pyro.distributions as dist
import torch
from gpytorch.variational import (
    CholeskyVariationalDistribution,
    MeanFieldVariationalDistribution,
    UnwhitenedVariationalStrategy,
    VariationalStrategy,
)
from row import Program, Row

POINTS = torch.tensor([[-0.8], [0.1], [0.9]])


def _strategy(owner, strategy, distribution):
    return strategy(owner, POINTS.double(), distribution(len(POINTS)), learn_inducing_locations=True)


class Prior:
    """A constant mean and a scaled kernel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class Low(Prior, gpytorch.models.ApproximateGP):
    """The low-level interface: the user's own likelihood."""

    def __init__(self, strategy=VariationalStrategy, distribution=CholeskyVariationalDistribution):
        super().__init__(_strategy(self, strategy, distribution))

    def guide(self, x, y):
        self.variational_strategy._clear_cache()
        function = self.pyro_guide(x)
        with pyro.plate("data", len(x)):
            pyro.sample("f", function)

    def model(self, x, y):
        pyro.module("gp", self)
        function = self.pyro_model(x)
        with pyro.plate("data", len(x)):
            f = pyro.sample("f", function)
            pyro.sample("y", dist.Poisson(f.exp()), obs=y)


class High(Prior, gpytorch.models.PyroGP):
    """The high-level interface: a likelihood of gpytorch."""

    def __init__(self, strategy=VariationalStrategy, distribution=CholeskyVariationalDistribution):
        super().__init__(_strategy(self, strategy, distribution), gpytorch.likelihoods.GaussianLikelihood(), num_data=6)

    def guide(self, x, y):
        self.variational_strategy._clear_cache()
        return super().guide(x, y)


def _tasks():
    x = torch.linspace(-1.0, 1.0, 6).repeat(3, 1).unsqueeze(-1)
    return x, torch.rand(3, 6).mul(3).floor()


def _program(make, *parts):
    def build():
        process = make(*parts).double()
        x, y = _tasks()
        with torch.no_grad():
            process(x[0])  # sets its variational distribution to the prior, which it does once
        return Program(process.model, process.guide, (x, y), None, adapt="*")

    return build


MEAN_FIELD = MeanFieldVariationalDistribution
FIRST = "first order, loop"
CHANGE = (
    "Call the process once before (it sets its own start on first use), and `variational_strategy._clear_cache()` at "
    "the top of the guide (it draws from the distribution of the call before)"
)

ROWS = [
    Row("PyroGP, VariationalStrategy", _program(High), FIRST, CHANGE),
    Row("PyroGP, UnwhitenedVariationalStrategy", _program(High, UnwhitenedVariationalStrategy), FIRST, CHANGE),
    Row("ApproximateGP, VariationalStrategy", _program(Low), FIRST, CHANGE),
    Row(
        "ApproximateGP, MeanField", _program(Low, VariationalStrategy, MeanFieldVariationalDistribution), FIRST, CHANGE
    ),
    Row("ApproximateGP, UnwhitenedVariationalStrategy", _program(Low, UnwhitenedVariationalStrategy), FIRST, CHANGE),
]
