"""What the tests of guides compare."""

import pytest
import torch


@pytest.fixture
def assert_slope():
    """Gradients of a loss of some leaves, along a random direction, against central differences on one noise."""

    def check(loss_and_grads, leaves, eps=1e-6, rtol=1e-6):
        torch.manual_seed(1)
        loss, grads = loss_and_grads()
        assert loss.dtype == torch.float64
        assert not [name for name in leaves if not grads[name].abs().sum() > 0]
        generator = torch.Generator().manual_seed(2)
        directions = {n: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for n, leaf in leaves.items()}
        starts = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        ends = []
        for end in (eps, -eps, 0.0):
            for name, leaf in leaves.items():
                leaf.data.copy_(starts[name] + end * directions[name])
            torch.manual_seed(1)
            ends.append(loss_and_grads()[0])
        slope = sum((grads[name] * direction).sum() for name, direction in directions.items())
        torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * eps), rtol=rtol, atol=2e-7)
        assert ends[2] == loss

    return check


@pytest.fixture
def assert_meta_slope(assert_slope):
    """The meta-gradient of a MetaSVI against central differences."""

    def check(meta, support, query):
        meta.init(support)
        assert_slope(lambda: meta.loss_and_grads(support, query), dict(meta.named_parameters()))

    return check


@pytest.fixture
def assert_svi_slope(assert_slope):
    """The gradient that plain SVI takes against central differences; the leaves are the modules' parameters."""

    def check(elbo, model, guide, args, modules):
        def loss_and_grads():
            loss = elbo.differentiable_loss(model, guide, *args)
            leaves = named()
            found = torch.autograd.grad(loss, list(leaves.values()))
            return loss.detach(), dict(zip(leaves, found, strict=True))

        def named():
            return {f"{i}.{n}": p for i, module in enumerate(modules) for n, p in module.named_parameters()}

        elbo.differentiable_loss(model, guide, *args)
        assert_slope(loss_and_grads, named())

    return check
