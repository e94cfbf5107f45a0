"""Dropout's masks are noise like any other: one seed, one number, however the tasks are run."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyrometa as pm
from pyrometa.functional.noise import RecordNoise

LAYERS = {
    "Dropout": lambda: nn.Dropout(0.4),
    "in place": lambda: nn.Dropout(0.4, inplace=True),
    "AlphaDropout": lambda: nn.AlphaDropout(0.3),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.3),
    "all": lambda: nn.Dropout(1.0),
    "none": lambda: nn.Dropout(0.0),
    "evaluation": lambda: nn.Dropout(0.4).eval(),
}


def model(x):
    m = pyro.sample("m", dist.Normal(torch.zeros((), dtype=torch.float64), 5.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)


def value(layer, engine):
    pyro.clear_param_store()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), layer(), nn.Tanh(), nn.Linear(8, 1)).double()

    def guide(x):
        pyro.module("net", net)
        pyro.sample("m", dist.Normal(net(x[None])[0, 0], 1.0))

    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), inner=pm.SGD(1e-3), steps=2, engine=engine)
    x = torch.linspace(0, 4, 20, dtype=torch.float64).reshape(4, 5)
    meta.init(x)
    torch.manual_seed(7)
    loss, grads = meta.loss_and_grads(x)
    return torch.cat([loss[None], *(grad.flatten() for grad in grads.values())])


@pytest.mark.parametrize("name", LAYERS)
def test_engines_agree(name):
    expected = value(LAYERS[name], pm.Engine(vectorize=False))
    for engine in (pm.Engine(vectorize=True), pm.Engine(vectorize=True, chunk_size=3)):
        torch.testing.assert_close(value(LAYERS[name], engine), expected, rtol=1e-9, atol=1e-9)


def test_recorded_dropout_agrees():
    expected = value(LAYERS["Dropout"], pm.Engine(vectorize=False))
    torch.testing.assert_close(value(LAYERS["Dropout"], pm.Engine(record=True)), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("function", "shape", "noise"),
    [
        (F.dropout, (4, 500), (4, 500)),
        (F.dropout1d, (40, 30, 7), (40, 30, 1)),
        (F.dropout1d, (600, 7), (600, 1)),
        (F.dropout2d, (40, 30, 2, 3), (40, 30, 1, 1)),
        (F.dropout3d, (40, 30, 2, 3, 2), (40, 30, 1, 1, 1)),
        (F.alpha_dropout, (4, 500), (4, 500)),
        (F.feature_alpha_dropout, (40, 30, 7), (40, 30, 1)),
    ],
)
def test_values_are_torchs(function, shape, noise):
    """Kept and dropped elements have the values that torch gives them, at the stated rate, a channel at a time."""
    x, p = torch.rand(shape, dtype=torch.float64) + 0.5, 0.3
    with RecordNoise() as recorder:
        found = function(x, p, True)
    expected = function(x, p, True)
    dropped, wanted = _dropped(function, found, x, p), _dropped(function, expected, x, p)
    assert [draw.shape for draw in recorder.draws] == [noise]
    assert _is_by_channel(dropped, noise)
    assert _is_by_channel(wanted, noise)
    channels = torch.Size(noise).numel()
    assert abs(dropped.double().mean() - p) < 5 * (p * (1 - p) / channels) ** 0.5
    both = ~dropped & ~wanted
    torch.testing.assert_close(found[both], expected[both], rtol=1e-12, atol=1e-12)
    if dropped.any() and wanted.any():
        torch.testing.assert_close(found[dropped][0], expected[wanted][0], rtol=1e-12, atol=1e-12)


def _dropped(function, result, x, p):
    """Dropped elements all have one value."""
    if function in (F.alpha_dropout, F.feature_alpha_dropout):
        return torch.isclose(result, result.min())
    return result == 0


def _is_by_channel(dropped, noise):
    one_each = dropped
    for dim, size in enumerate(noise):
        if size == 1:
            one_each = one_each.narrow(dim, 0, 1)
    return torch.equal(one_each.expand_as(dropped), dropped)
