"""Convolutions as products with patches: against torch's own, to second order, side by side and in programs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

import pyrometa as pm
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.rewrites import convolutions

ON_PATCHES = {
    "1d": (lambda: nn.Conv1d(1, 4, 3, stride=2, padding=1), (2, 1, 7)),
    "2d": (lambda: nn.Conv2d(1, 6, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 1, 6, 5)),
    "channels, no bias": (lambda: nn.Conv2d(2, 8, 2, bias=False), (2, 2, 4, 5)),
    "few channels out": (lambda: nn.Conv2d(1, 2, 4), (1, 1, 7, 7)),
    "dilation": (lambda: nn.Conv2d(1, 4, 2, stride=2, padding=1, dilation=2), (2, 1, 6, 5)),
    "stride past the kernel": (lambda: nn.Conv2d(1, 4, 2, stride=3), (2, 1, 6, 9)),
    "same": (lambda: nn.Conv2d(1, 15, (3, 5), padding="same", dilation=(2, 1)), (1, 1, 4, 5)),
    "valid": (lambda: nn.Conv1d(1, 4, 2, padding="valid"), (1, 1, 4)),
    "circular": (lambda: nn.Conv2d(1, 9, 3, padding=1, padding_mode="circular"), (1, 1, 4, 4)),
    "reflect": (lambda: nn.Conv1d(1, 4, 3, padding="same", padding_mode="reflect"), (2, 1, 5)),
    "transposed, 1d": (lambda: nn.ConvTranspose1d(4, 1, 4, stride=2, padding=1), (2, 4, 5)),
    "transposed, 2d": (lambda: nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1), (2, 16, 4, 5)),
    "transposed, channels": (lambda: nn.ConvTranspose2d(12, 2, (3, 2), stride=(2, 1), bias=False), (2, 12, 4, 3)),
    "output padding": (lambda: nn.ConvTranspose2d(9, 1, 3, stride=2, padding=1, output_padding=1), (1, 9, 3, 4)),
    "transposed, dilation": (
        lambda: nn.ConvTranspose2d(4, 1, 2, stride=2, dilation=3, output_padding=(0, 1)),
        (1, 4, 2, 3),
    ),
    "transposed, large stride": (lambda: nn.ConvTranspose1d(4, 1, 2, stride=3, output_padding=2), (2, 4, 3)),
}
AS_EVER = {
    "3d": (lambda: nn.Conv3d(1, 8, 2), (1, 1, 4, 4, 4)),
    "groups": (lambda: nn.Conv2d(2, 8, 2, groups=2), (2, 2, 4, 4)),
    "large patches": (lambda: nn.Conv2d(2, 7, 2), (2, 2, 4, 4)),
    "few positions": (lambda: nn.Conv2d(1, 4, 2), (2, 1, 2, 4)),
    "points": (lambda: nn.Conv2d(2, 4, 1), (2, 2, 3, 3)),
    "one image": (lambda: nn.Conv2d(1, 4, 2), (1, 4, 4)),
    "same, uneven": (lambda: nn.Conv1d(1, 4, 2, padding="same"), (2, 1, 5)),
    "transposed, 3d": (lambda: nn.ConvTranspose3d(8, 1, 2), (1, 8, 2, 2, 2)),
    "transposed, large patches": (lambda: nn.ConvTranspose2d(3, 2, 2), (2, 3, 3, 3)),
    "transposed, groups": (lambda: nn.ConvTranspose2d(16, 2, 2, groups=2), (2, 16, 3, 3)),
    "transposed, one image": (lambda: nn.ConvTranspose2d(4, 1, 2), (4, 3, 3)),
    "transposed, one sequence": (lambda: nn.ConvTranspose1d(4, 1, 2), (4, 5)),
    "output padding past the stride": (lambda: nn.ConvTranspose1d(4, 1, 2, dilation=2, output_padding=1), (1, 4, 3)),
}


@pytest.fixture
def products(monkeypatch):
    """The products with patches that were made."""
    calls, function = [], convolutions._each_times

    def spy(matrix, columns):
        calls.append(tuple(matrix.shape))
        return function(matrix, columns)

    monkeypatch.setattr(convolutions, "_each_times", spy)
    return calls


def double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def to_second_order(value, leaves):
    """A value, and the first and a second derivative of a function of it."""
    first = torch.autograd.grad(weighed(value.sin()), leaves, create_graph=True)
    return [value, *first, *torch.autograd.grad(sum(weighed(part.square()) for part in first), leaves)]


def weighed(value):
    return (value * torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view(value.shape)).sum()


def assert_same(found, expected):
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ON_PATCHES)
def test_a_convolution_is_torchs(name, products):
    make, shape = ON_PATCHES[name]
    layer, x = make().double(), double(*shape)
    leaves = [x, *layer.parameters()]
    expected = to_second_order(layer(x), leaves)
    with BatchedNoise(()):
        found = to_second_order(layer(x), leaves)
    assert len(products) == 1
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", AS_EVER)
def test_others_stay_torchs(name, products):
    make, shape = AS_EVER[name]
    layer, x = make(), torch.randn(shape)
    with BatchedNoise(()):
        found = layer(x)
    assert not products
    assert torch.equal(found, layer(x))


@pytest.mark.parametrize("options", [{"padding": "same", "stride": (1, 2)}, {"padding": "full"}], ids=str)
def test_what_torch_refuses_is_refused(options):
    with BatchedNoise(()), pytest.raises(RuntimeError, match="padding"):
        F.conv2d(torch.randn(1, 1, 6, 7), torch.randn(15, 1, 3, 3), **options)


SIDE_BY_SIDE_CASES = {
    "conv": (F.conv2d, (2, 1, 4, 3), 4),
    "transposed": (F.conv_transpose2d, (2, 4, 2, 3), 1),
    "conv, 1d": (F.conv1d, (2, 1, 9), 4),
    "transposed, 1d": (F.conv_transpose1d, (2, 4, 5), 1),
}


@pytest.mark.parametrize("own", [(0, 0, 0), (0, None, 0), (None, 0, None), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("name", SIDE_BY_SIDE_CASES)
def test_tasks_side_by_side_are_torchs_one_by_one(name, own, products):
    function, images, biases = SIDE_BY_SIDE_CASES[name]
    shapes = images, (4, 1, *[2] * (len(images) - 2)), (biases,)
    each = list(zip(shapes, own, strict=True))
    leaves = [double(*shape) if dim is None else double(*shape[:dim], 3, *shape[dim:]) for shape, dim in each]

    def one(x, weight, bias):
        return function(x, weight, bias, stride=2, padding=1)

    def task(i):
        return [leaf if dim is None else leaf.select(dim, i) for leaf, dim in zip(leaves, own, strict=True)]

    expected = to_second_order(torch.stack([one(*task(i)) for i in range(3)]), leaves)
    with BatchedNoise(()):
        value = vmap(one, own)(*leaves)
    assert len(products) == 1
    assert_same(to_second_order(value, leaves), expected)


class Images(nn.Module):
    """A VAE of images 4x4, of which the guide calls one layer by its function."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 2, stride=2)
        self.kernel = nn.Parameter(0.1 * torch.randn(4, 5, 2, 2))
        self.hidden, self.lay = nn.Linear(2, 16), nn.ConvTranspose2d(4, 1, 2, stride=2)

    def model(self, x):
        pyro.module("images", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.lay(self.hidden(z).tanh().view(-1, 4, 2, 2))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("images", self)
        loc, scale = F.conv2d(self.conv(x).tanh(), self.kernel).flatten(1).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def meta_svi(engine, steps=2, adapt="both", **options):
    pyro.clear_param_store()
    torch.manual_seed(0)
    images = Images().double()
    optim, inner = pyro.optim.Adam({"lr": 1e-3}), pm.SGD(1e-3)
    return pm.MetaSVI(
        images.model, images.guide, optim, inner=inner, steps=steps, adapt=adapt, engine=engine, **options
    )


def sets():
    return torch.sin(torch.arange(2 * 3 * 2 * 16.0, dtype=torch.float64)).view(2, 3, 2, 1, 4, 4)


def loss_and_grads(engine, **options):
    meta, (support, query) = meta_svi(engine, **options), sets()
    meta.init(support)
    torch.manual_seed(7)
    loss, grads = meta.loss_and_grads(support, query)
    return [loss, *grads.values()]


def adapted(engine):
    """Fast weights of all tasks."""
    guides = meta_svi(engine).adapt_many(sets()[0])
    return [value.detach() for guide in guides for value in guide.parameters()]


LOOP, SIDE_BY_SIDE = pm.Engine(vectorize=False), pm.Engine(vectorize=True)


@pytest.mark.parametrize("options", [{}, {"meta_gradient": pm.Unrolled(first_order=True)}], ids=["second", "first"])
def test_engines_agree(options, products):
    expected = loss_and_grads(LOOP, **options)
    assert not products
    assert_same(loss_and_grads(SIDE_BY_SIDE, **options), expected)
    assert {*products} == {(5, 4), (4, 4)}


def test_tasks_adapt_alike(products):
    assert_same(adapted(SIDE_BY_SIDE), adapted(LOOP))
    assert {*products} == {(5, 4), (4, 4)}


def test_a_recorded_step_agrees(products):
    expected = loss_and_grads(LOOP, steps=1)
    assert_same(loss_and_grads(pm.Engine(vectorize=True, record=True), steps=1), expected)
    assert {*products} == {(5, 4), (4, 4)}
