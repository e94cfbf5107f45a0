"""What runs the program again in the backward pass is refused by name, and harmless hooks are not."""

import inspect

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal, guide_of, meta_svi
from programs import Case, rows
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import pyrometa as pm

pytestmark = pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")  # how tasks are run is not the matter

LOOP = pm.Engine(vectorize=False)


class Wrapped(nn.Module):
    """A network that is called by another function."""

    def __init__(self, call):
        super().__init__()
        self.net, self.call = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), call

    def forward(self, x):
        return self.call(self.net, x)


class Decoder(nn.Module):
    """A model whose mean is a network of its latent."""

    def __init__(self, call):
        super().__init__()
        self.decoder = Wrapped(call).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            loc = self.decoder(torch.cat([z, z], -1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x[:, :1])


def in_guide(call):
    torch.manual_seed(0)
    return guide_of(Wrapped(call))


def in_model(call):
    torch.manual_seed(0)
    return Case(Decoder(call), guide_of(nn.Linear(2, 1)).guide, rows(), rows())


def once(x):
    """What the network is called with needs a gradient, as checkpoints of old want it."""
    return x if x.requires_grad else x.clone().requires_grad_()


CHECKPOINTS = {
    "reentrant": lambda net, x: checkpoint(net, once(x), use_reentrant=True),
    "not reentrant": lambda net, x: checkpoint(net, x, use_reentrant=False),
    "sequential": lambda net, x: checkpoint_sequential(net, 2, x, use_reentrant=False),
}
if inspect.signature(checkpoint).parameters["function"].default is None:  # newer than torch 2.10
    CHECKPOINTS["decorated"] = lambda net, x: checkpoint(use_reentrant=False)(net)(x)


@pytest.mark.parametrize("side", [in_guide, in_model])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_are_refused_by_name(side, kind):
    name = "run_function|forward" if kind == "sequential" else "Sequential"
    with pytest.raises(pm.UnsupportedProgramError, match=rf"torch.utils.checkpoint runs \S*({name}).*chunk_size"):
        meta_svi(side(CHECKPOINTS[kind]), engine=LOOP).step(rows())


def test_a_checkpointed_function_is_named():
    def encoded(net, x):
        return net(x).tanh()

    case = in_guide(lambda net, x: checkpoint(encoded, net, x, use_reentrant=False))
    with pytest.raises(pm.UnsupportedProgramError, match=r"runs \S*<locals>\.encoded again"):
        meta_svi(case, engine=LOOP).init(rows())


class InTraining(nn.Module):
    """A layer that is called in another way while it is trained."""

    def __init__(self, call):
        super().__init__()
        self.net, self.call = nn.Linear(2, 1), call

    def forward(self, x):
        return (self.call if self.training else nn.Module.__call__)(self.net, x)


@pytest.mark.parametrize("first", ["init", "evaluate_loss"])
def test_a_checkpoint_of_another_mode_is_refused_when_the_mode_is_met(first):
    torch.manual_seed(0)
    case = guide_of(InTraining(lambda net, x: checkpoint(net, x, use_reentrant=False)))
    case.guide.eval()
    meta = meta_svi(case, engine=LOOP)
    getattr(meta, first)(rows())
    case.guide.train()
    for _ in range(2):
        with pytest.raises(pm.UnsupportedProgramError, match=r"torch.utils.checkpoint runs \S*Linear"):
            meta.step(rows())
    case.guide.eval()
    meta.step(rows())


class Late(torch.autograd.Function):
    """``x @ weight``, whose backward reads the weight from its module when it runs."""

    @staticmethod
    def forward(ctx, x, weight, layer):
        ctx.layer = layer
        ctx.save_for_backward(x)
        return x @ weight.mT

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad @ ctx.layer.weight, grad.mT @ x, None


class Again(torch.autograd.Function):
    """A checkpoint of one's own, which adds to the gradients of the parameters by itself."""

    @staticmethod
    def forward(ctx, x, net):
        ctx.net = net
        ctx.save_for_backward(x)
        return net(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            torch.autograd.backward(ctx.net(x), grad)
        return x.grad, None


def late(net, x):
    return net[1](Late.apply(net[1](net[0](x)), net[2].weight, net[2]))


def hooked(net, x):
    """Adds a penalty to the gradient by a hook that reads a parameter when it runs."""
    out = net(x)
    out.register_hook(lambda grad: grad * net[0].weight.sum())
    return out


@pytest.mark.parametrize("side", [in_guide, in_model])
@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (late, r"gradient of .*net.0.weight'.*depends on parameters that are read in the backward pass"),
        (hooked, r"gradient of .*net.0.weight'.*depends on parameters that are read in the backward pass"),
        (lambda net, x: Again.apply(once(x), net), r"adds to .grad of '\S*net.0.weight'"),
    ],
    ids=["late", "hooked", "again"],
)
def test_a_backward_pass_that_reads_parameters_is_refused(side, call, reason):
    with pytest.raises(pm.UnsupportedProgramError, match=rf"{reason}.*chunk_size"):
        meta_svi(side(call), engine=LOOP).step(rows())


def watched(net, x):
    handles = [layer.register_forward_hook(lambda *_: None) for layer in net]
    out = net(x)
    for handle in handles:
        handle.remove()
    return out


def halved(net, x):
    out = net(x)
    if out.requires_grad:
        out.register_hook(lambda grad: 0.5 * grad)
    return out


def under(hooks):
    def call(net, x):
        with hooks():
            return net(x)

    return call


PLAIN = {
    "forward hook": watched,
    "saved tensors": under(lambda: saved_tensors_hooks(lambda t: t, lambda t: t)),
    "saved on the CPU": under(save_on_cpu),
}


def assert_alike(side, call, plain, meta_gradient):
    found = []
    for run, engine in ((call, pm.Engine()), (call, LOOP), (plain, LOOP)):
        meta = meta_svi(side(run), engine=engine, meta_gradient=meta_gradient)
        torch.manual_seed(1)
        found.append(meta.loss_and_grads(rows(), rows().flip(0)))
    for loss, grads in found[:2]:
        torch.testing.assert_close(loss, found[2][0])
        assert_equal(grads, found[2][1])


@pytest.mark.thinned(2)
@pytest.mark.parametrize("side", [in_guide, in_model])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("kind", PLAIN)
def test_harmless_hooks_change_nothing(side, first_order, kind):
    assert_alike(side, PLAIN[kind], lambda net, x: net(x), pm.Unrolled(first_order=first_order))


@pytest.mark.parametrize("side", [in_guide, in_model])
def test_a_hook_may_scale_gradients_in_first_order(side):
    assert_alike(side, halved, lambda net, x: 0.5 * net(x) + 0.5 * net(x).detach(), pm.Unrolled(first_order=True))


def test_sparse_gradients_are_accepted():
    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        case = guide_of(nn.Sequential(nn.Embedding(4, 1, sparse=sparse), nn.Flatten(-2)))
        encoder = case.guide.encoder
        encoder.register_forward_pre_hook(lambda _, given: (given[0][:, :1].abs().long().clamp(max=3),))
        meta = meta_svi(case, engine=LOOP, meta_gradient=pm.Unrolled(first_order=True))
        torch.manual_seed(1)
        found.append(meta.loss_and_grads(rows()))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert_equal({n: g.to_dense() for n, g in found[0][1].items()}, found[1][1])
