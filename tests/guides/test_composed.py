"""An encoder for local latents and an autoguide for global ones in one guide, each with its own adapt choice."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.poutine import block
from torch import nn

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, ComposedGuide, SetEncoderGuide

F64 = torch.float64


def factors(x):
    """Factor analysis with random loadings and noise: global w and noise, a local z for each row."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 0.3))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * w, noise).to_event(1), obs=x)


def encoder():
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double()


def local():
    return AmortizedGuide(factors, encoder(), sites=["z"])


def init(site):
    return torch.full(site["fn"].shape(), 0.5, dtype=F64)


def composed():
    return ComposedGuide(shared=AutoNormal(block(factors, hide=["z"]), init_loc_fn=init), rows=local())


def guide_list():
    """Pyro's own container: it needs to be told of plates whose size changes."""
    guide = AutoGuideList(factors, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
    guide.append(AutoNormal(block(factors, hide=["z"]), init_loc_fn=init))
    guide.append(local())
    return guide


def function():
    shared, rows = AutoDiagonalNormal(block(factors, hide=["z"]), init_loc_fn=init), local()

    def guide(x):
        shared(x)
        rows(x)

    return guide


@pytest.mark.parametrize("adapt", ["guide", "first"])
@pytest.mark.parametrize("make", [composed, guide_list, function], ids=lambda f: f.__name__)
def test_meta_gradient(make, adapt, assert_meta_slope):
    patterns = {composed: "guide.shared.*", guide_list: "guide.0.*", function: "guide.AutoDiagonalNormal.*"}
    support, query = torch.randn(3, 4, 2, dtype=F64), torch.randn(3, 6, 2, dtype=F64)
    guide = make()
    meta = pm.MetaSVI(
        factors,
        guide,
        pyro.optim.Adam({"lr": 1e-2}),
        loss=Trace_ELBO(),
        inner=pm.SGD(0.005),
        steps=2,
        adapt=patterns[make] if adapt == "first" else adapt,
        engine=pm.Engine(vectorize=True),
    )
    with torch.no_grad():
        assert_meta_slope(meta, support, query)
    adapted = meta.adapt(support[0])
    names = {name.removeprefix("adapted.").replace("/", ".") for name, _ in adapted.named_parameters()}
    everything = {name for name, _ in meta.named_parameters()}
    assert names == {n for n in everything if "heads" not in n and "encoder" not in n} or adapt == "guide"
    assert adapt == "first" or names == everything
    drawn = Predictive(adapted.model, guide=adapted, num_samples=3)(query[0])
    assert drawn["noise"].min() > 0
    assert drawn["z"].shape == (3, 6)


def test_parts_name_their_parameters():
    guide = composed()
    guide(torch.randn(4, 2, dtype=F64))
    tops = {name.split(".")[0] for name, _ in guide.named_parameters()}
    assert tops == {"shared", "rows"}
    assert all(name.startswith(("shared.", "rows.")) for name in pyro.get_param_store())


def test_plain_svi_of_any_size():
    torch.manual_seed(0)
    svi = SVI(factors, composed(), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    loadings = torch.tensor([1.0, -1.0], dtype=F64)
    losses = [svi.step(torch.randn(rows, 1, dtype=F64) * loadings) / rows for rows in (20, 30) * 60]
    assert sum(losses[-20:]) < sum(losses[:20]) - 10


def test_condition_conditions_the_parts_that_can_be():
    guide = ComposedGuide(
        shared=SetEncoderGuide(factors, lambda x: torch.cat([x, x**2], -1), sites=["w", "noise"]), rows=local()
    )
    support, query = torch.randn(4, 2, dtype=F64), torch.randn(6, 2, dtype=F64)
    guide(support)
    torch.manual_seed(0)
    given = guide.condition(support)(query)
    torch.manual_seed(0)
    shared, rows = guide.shared(support), guide.rows(query)
    torch.testing.assert_close(given, {**shared, **rows}, rtol=0, atol=0)
    before = [p.detach().clone() for p in guide.parameters()]
    SVI(factors, guide.condition(support), pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(query)
    assert all(not torch.equal(p, b) for p, b in zip(guide.parameters(), before, strict=True))
    assert all(name.startswith(("shared.", "rows.")) for name in pyro.get_param_store())


SPREAD, NOISE = 1.0, 0.7


def statistician(x):
    """A set's own context, and a latent of each row around it: all normal, so that everything is known."""
    c = pyro.sample("c", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, SPREAD))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def statistician_guide():
    """q(c | S) q(z | x, c): the form of the Neural Statistician, and of this model's posterior."""
    return ComposedGuide(
        context=SetEncoderGuide(statistician, lambda x: x[:, None], pooling="mean", sites=["c"]),
        rows=AmortizedGuide(statistician, lambda x, c: torch.stack([x, c.expand_as(x)], -1), sites=["z"], given=["c"]),
    )


def set_head(head, weights, scale):
    """Linear in the features with these weights; the scale's raw value is shifted so that zero is one."""
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0] = torch.tensor(weights, dtype=F64)
        head.bias.copy_(torch.tensor([0.0, math.log(math.expm1(scale)) - math.log(math.expm1(1.0))], dtype=F64))


def test_a_part_reads_what_an_earlier_one_sampled():
    """With the exact posterior of five rows, every draw gives the evidence."""
    x, guide = torch.randn(5, dtype=F64), statistician_guide()
    guide(x)
    around = 1 / (SPREAD**2 + NOISE**2)
    precision = 1 + len(x) * around
    set_head(guide.context.amortized.heads["c"], [len(x) * around / precision], precision**-0.5)
    precision = SPREAD**-2 + NOISE**-2
    set_head(guide.rows.heads["z"], [NOISE**-2 / precision, SPREAD**-2 / precision], precision**-0.5)
    covariance = (SPREAD**2 + NOISE**2) * torch.eye(5, dtype=F64) + 1
    evidence = dist.MultivariateNormal(x.new_zeros(5), covariance).log_prob(x)
    for given in (guide, guide.condition(x)):
        for _ in range(3):
            loss = Trace_ELBO().differentiable_loss(statistician, given, x)
            torch.testing.assert_close(-loss, evidence, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [0, 2])
def test_meta_gradient_of_a_neural_statistician(steps, assert_meta_slope):
    meta = pm.MetaSVI(
        statistician,
        statistician_guide(),
        pyro.optim.Adam({"lr": 1e-2}),
        loss=Trace_ELBO(),
        inner=pm.SGD(0.01),
        steps=steps,
        adapt="guide.context.*",
        engine=pm.Engine(vectorize=True),
    )
    with torch.no_grad():
        assert_meta_slope(meta, torch.randn(3, 4, dtype=F64), torch.randn(3, 6, dtype=F64))


def test_a_site_that_nothing_sampled_is_missed():
    x = torch.randn(5, dtype=F64)
    rows = statistician_guide().rows
    with pytest.raises(ValueError, match=r"reads site 'c' .* put this guide in a ComposedGuide after one that"):
        rows(x)
    assert rows(x, c=x.new_zeros(()))["z"].shape == (5,)


class Plain(nn.Module):
    """A guide that Pyro knows nothing of."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 1).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x)[:, 0], 0.5))


def test_a_plain_module_as_a_part_is_registered():
    x = torch.randn(4, 2, dtype=F64)
    for conditioned in (False, True):
        pyro.clear_param_store()
        guide = ComposedGuide(shared=AutoNormal(block(factors, hide=["z"])), rows=Plain())
        with pyro.poutine.trace() as trace:
            (guide.condition(x) if conditioned else guide)(x)
        assert {"shared.locs.w", "rows$$$net.weight"} <= trace.trace.nodes.keys()


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({}, ValueError, "needs parts"),
        ({"a": 3}, TypeError, "part 'a' must be a guide, got int"),
        ({"forward": print}, ValueError, "part 'forward' has the name"),
    ],
)
def test_bad_input(parts, error, message):
    with pytest.raises(error, match=message):
        ComposedGuide(**parts)
