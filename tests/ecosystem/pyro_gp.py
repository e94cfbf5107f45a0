"""The models of pyro.contrib.gp, each conditioned on a task's own data as its tutorials do by ``set_data``."""

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro.nn import PyroSample
from row import Program, Row


def _tasks(rows=6, columns=1):
    x = torch.linspace(-1.0, 1.0, rows).repeat(3, 1)
    return x, torch.sin(3 * x + torch.rand(3, 1)) + 0.1 * torch.randn(3, rows)


def _kernel():
    return gp.kernels.RBF(1, variance=torch.tensor(1.2), lengthscale=torch.tensor(0.7))


def _program(process, adapt="*", loss=None):
    """The tutorials' own ``model`` and ``guide``, told of a task's data first."""

    def model(x, y):
        process.set_data(x, y)
        return process.model()

    def guide(x, y):
        process.set_data(x, y)
        return process.guide()

    x, y = _tasks()
    return Program(model, guide, (x, y), None, loss or pyro.infer.TraceMeanField_ELBO(), adapt, lr=1e-3)


def _regression():
    x, y = _tasks()
    return _program(gp.models.GPRegression(x[0], y[0], _kernel(), noise=torch.tensor(0.1), jitter=1e-5), "both")


def _regression_prior():
    x, y = _tasks()
    kernel = _kernel()
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 1.0))
    kernel.autoguide("lengthscale", dist.Normal)
    return _program(gp.models.GPRegression(x[0], y[0], kernel, noise=torch.tensor(0.1), jitter=1e-5), "both")


def _sparse(approx):
    def build():
        x, y = _tasks()
        points = torch.tensor([-0.8, 0.1, 0.9])
        process = gp.models.SparseGPRegression(
            x[0], y[0], _kernel(), Xu=points, noise=torch.tensor(0.1), approx=approx, jitter=1e-4
        )
        return _program(process, "both")

    return build


def _variational(whiten, likelihood=None):
    def build():
        x, y = _tasks()
        process = gp.models.VariationalGP(
            x[0], y[0], _kernel(), likelihood or gp.likelihoods.Gaussian(torch.tensor(0.2)), whiten=whiten, jitter=1e-4
        )
        return _program(process, "both")

    return build


def _sparse_variational(whiten):
    def build():
        x, y = _tasks()
        process = gp.models.VariationalSparseGP(
            x[0],
            y[0],
            _kernel(),
            torch.tensor([-0.8, 0.1, 0.9]),
            gp.likelihoods.Gaussian(torch.tensor(0.2)),
            whiten=whiten,
            jitter=1e-4,
        )
        return _program(process, "both")

    return build


def _latent():
    y = torch.randn(3, 2, 5)
    kernel = gp.kernels.RBF(2, lengthscale=torch.ones(2))
    base = gp.models.SparseGPRegression(
        torch.randn(5, 2), y[0], kernel, Xu=torch.randn(3, 2), noise=torch.tensor(0.2), jitter=1e-3
    )
    base.X = pyro.nn.PyroSample(dist.Normal(base.X, 0.5).to_event())
    base.autoguide("X", dist.Normal)

    def model(y):
        base.y = y
        return base.model()

    def guide(y):
        base.y = y
        return base.guide()

    return Program(model, guide, (y,), None, pyro.infer.TraceMeanField_ELBO(), "both", lr=1e-4)


ROWS = [
    Row("GPRegression", _regression),
    Row("GPRegression, a prior over the length scale", _regression_prior),
    *(Row(f"SparseGPRegression, {approx}", _sparse(approx)) for approx in ("DTC", "FITC", "VFE")),
    Row("VariationalGP, whitened", _variational(True)),
    Row("VariationalGP", _variational(False)),
    Row("VariationalSparseGP, whitened", _sparse_variational(True)),
    Row("VariationalSparseGP", _sparse_variational(False)),
    Row("GPLVM", _latent),
]
