"""Dropout's masks are noise like any other: one seed, one number, however the tasks are run."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pyrometa as pm
from pyrometa.noise.replay import RecordNoise


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attention(nn.Module):
    """Self-attention over eight numbers, of one head or two."""

    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.wide = nn.Linear(1, 4)

    def forward(self, x):
        wide = self.wide(x.reshape(8, 1))
        return self.attend(wide).mean(-1).reshape(x.shape)


def attention(**options):
    def attend(x):
        heads = x.reshape(1, 8, 2, 2).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, **options).transpose(1, 2).reshape(8, 4)

    return attend


class MultiHead(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer, self.options = nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True), options

    def forward(self, x):
        return self.layer(x[None], x[None], x[None], **self.options)[0][0]


LAYERS = {
    "Dropout": lambda: nn.Dropout(0.4),
    "in place": lambda: nn.Dropout(0.4, inplace=True),
    "AlphaDropout": lambda: nn.AlphaDropout(0.3),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.3),
    "all": lambda: nn.Dropout(1.0),
    "none": lambda: nn.Dropout(0.0),
    "evaluation": lambda: nn.Dropout(0.4).eval(),
}
SPELLINGS = {
    "torch.dropout": lambda: Call(lambda x: torch.dropout(x, p=0.4, train=True)),
    "torch.dropout_": lambda: Call(lambda x: torch.dropout_(x.clone(), 0.4, True)),
    "torch.alpha_dropout": lambda: Call(lambda x: torch.alpha_dropout(x, 0.4, True)),
    "torch.alpha_dropout_": lambda: Call(lambda x: torch.alpha_dropout_(x.clone(), 0.4, True)),
    "torch.feature_dropout": lambda: Call(lambda x: torch.feature_dropout(x, 0.4, True)),
    "torch.feature_dropout_": lambda: Call(lambda x: torch.feature_dropout_(x.clone(), 0.4, True)),
    "torch.feature_alpha_dropout": lambda: Call(lambda x: torch.feature_alpha_dropout(x, 0.4, True)),
    "torch.feature_alpha_dropout_": lambda: Call(lambda x: torch.feature_alpha_dropout_(x.clone(), 0.4, True)),
    "torch.native_dropout": lambda: Call(lambda x: torch.native_dropout(x, 0.4, True)[0]),
    "RReLU": lambda: nn.RReLU(),
    "torch.rrelu": lambda: Call(lambda x: torch.rrelu(x, 0.1, 0.3, True)),
    "gumbel_softmax": lambda: Call(lambda x: F.gumbel_softmax(x, tau=0.5)),
    "attention": lambda: Attention(attention(dropout_p=0.4)),
    "causal attention": lambda: Attention(attention(dropout_p=0.4, is_causal=True)),
    "MultiheadAttention": lambda: Attention(MultiHead()),
    "MultiheadAttention without weights": lambda: Attention(MultiHead(need_weights=False)),
    "TransformerEncoderLayer": lambda: Attention(nn.TransformerEncoderLayer(4, 2, 5, dropout=0.4)),
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


@pytest.mark.parametrize("name", SPELLINGS)
def test_chunks_of_other_spellings_agree(name):
    expected = value(SPELLINGS[name], pm.Engine(vectorize=False))
    found = value(SPELLINGS[name], pm.Engine(vectorize=True, chunk_size=2))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


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
        (torch.dropout, (4, 500), (4, 500)),
        (torch.dropout_, (4, 500), (4, 500)),
        (torch.alpha_dropout, (4, 500), (4, 500)),
        (torch.alpha_dropout_, (4, 500), (4, 500)),
        (torch.feature_dropout, (40, 30, 7), (40, 30, 1)),
        (torch.feature_dropout_, (40, 30, 7), (40, 30, 1)),
        (torch.feature_alpha_dropout, (40, 30, 7), (40, 30, 1)),
        (torch.feature_alpha_dropout_, (40, 30, 7), (40, 30, 1)),
    ],
)
def test_values_are_torchs(function, shape, noise):
    """Kept and dropped elements have the values that torch gives them, at the stated rate, a channel at a time."""
    x, p = torch.rand(shape, dtype=torch.float64) + 0.5, 0.3
    with RecordNoise() as recorder:
        found = function(x.clone(), p, True)
    expected = function(x.clone(), p, True)
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
    if "alpha" in function.__name__:
        return torch.isclose(result, result.min())
    return result == 0


def _is_by_channel(dropped, noise):
    one_each = dropped
    for dim, size in enumerate(noise):
        if size == 1:
            one_each = one_each.narrow(dim, 0, 1)
    return torch.equal(one_each.expand_as(dropped), dropped)


@pytest.mark.parametrize("grouped", [False, True])
def test_attention_drops_weights(grouped):
    """With values that form an identity the result is the weights: none, or the whole weight at its rate."""
    query = torch.randn(50, 4, 6, 3, dtype=torch.float64)
    key = torch.randn(50, 2 if grouped else 4, 6, 3, dtype=torch.float64)
    value = torch.eye(6, dtype=torch.float64).expand(*key.shape[:2], 6, 6)
    weights = F.scaled_dot_product_attention(query, key, value, enable_gqa=grouped)
    with RecordNoise() as recorder:
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=0.3, enable_gqa=grouped)
    assert [draw.shape for draw in recorder.draws] == [weights.shape]
    assert_dropped(found, weights)


def test_multi_head_attention_drops_weights():
    layer, x = nn.MultiheadAttention(4, 2, dropout=0.3).double(), torch.randn(20, 30, 4, dtype=torch.float64)
    _, weights = layer.eval()(x, x, x, average_attn_weights=False)
    with RecordNoise() as recorder:
        _, found = layer.train()(x, x, x, average_attn_weights=False)
    assert len(recorder.draws) == 1
    assert_dropped(found, weights)


def assert_dropped(found, weights):
    """At a rate of 0.3, within five standard errors."""
    dropped = found == 0
    torch.testing.assert_close(found, torch.where(dropped, 0.0, weights / 0.7), rtol=1e-12, atol=1e-12)
    assert abs(dropped.double().mean() - 0.3) < 5 * (0.21 / dropped.numel()) ** 0.5
