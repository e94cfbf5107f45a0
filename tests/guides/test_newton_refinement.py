"""SemiAmortizedGuide(rule=Newton()): each datum by its own Hessian, exact under SVI and MetaSVI."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from programs import DIM, Decoder
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.diagnostics import inference_gaps
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide
from pyrometa.guides.row_surface import RowSurface

F64 = torch.float64


def encoder():
    return nn.Sequential(nn.Linear(DIM, 3), nn.Tanh()).double()


def elbo(kind=Trace_ELBO, particles=4):
    return kind(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def semi(model, steps=3, rule=None, **options):
    guide = AmortizedGuide(model, encoder(), family=options.pop("family", "mean_field"))
    return SemiAmortizedGuide(guide, steps, rule or pm.Newton(), **{"loss": elbo(), **options})


def rows(*leading):
    return torch.randn(*leading, 4, DIM, dtype=F64)


class Net(nn.Module):
    """Two latents a datum, a decoder that is no line."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, DIM)).double()

    def forward(self, x):
        pyro.module("net", self)
        with pyro.plate("data", x.shape[-2]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 0.7).to_event(1), obs=x)


@pytest.mark.usefixtures("zero_noise")
def test_it_converges_to_each_datums_posterior():
    """With the noise at zero the loss is known: its minimum is the posterior mean, and the prior's scale."""
    model, x = Decoder().double(), rows()
    with torch.no_grad():
        found = semi(model, 7, loss=TraceMeanField_ELBO()).propose(x)
    weight, bias = (part.detach() for part in (model.linear.weight, model.linear.bias))
    precision = torch.eye(weight.shape[1], dtype=F64) + weight.T @ weight / model.noise.detach() ** 2
    mean = torch.linalg.solve(precision, (x - bias) @ weight / model.noise.detach() ** 2, left=False)
    torch.testing.assert_close(found["z.loc"], mean, rtol=1e-9, atol=1e-10)
    scale = F.softplus(found["z.scale"] + 0.5413248546129181)
    torch.testing.assert_close(scale, torch.ones_like(scale), rtol=1e-9, atol=1e-10)


def test_a_row_is_what_it_is_alone():
    """Losses, slopes and Hessians of all rows at once, against autograd on each datum's own."""
    model, x = Net(), rows()
    guide = semi(model, 1)
    noise = torch.randn(4, 4, 2, dtype=F64)

    def own(row, at, noise):
        scale = F.softplus(row[2:] + 0.54)
        z = row[:2] + scale * noise
        q = dist.Normal(row[:2], scale).log_prob(z).sum(-1)
        p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Normal(model.net(z), 0.7).log_prob(at).sum(-1)
        return (q - p).mean()

    def loss(at, weights):
        return sum(w * own(row, one, e) for w, row, one, e in zip(weights, at, x, noise.unbind(1), strict=True))

    at = torch.randn(4, 4, dtype=F64)
    here = RowSurface.at(loss, at)
    for i in range(4):
        alone = lambda row, i=i: own(row, x[i], noise[:, i])  # noqa: E731
        torch.testing.assert_close(here.losses[i], alone(at[i]))
        torch.testing.assert_close(here.slope[i], torch.func.grad(alone)(at[i]))
        torch.testing.assert_close(here.hessian()[i], torch.autograd.functional.hessian(alone, at[i]))
    torch.testing.assert_close(here.losses_at(at[None] + 1)[0], RowSurface.at(loss, at + 1).losses)
    assert guide.propose(x)["z.loc"].shape == (4, 2)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("learn", [None, "step"])
def test_gradient_in_plain_svi(kind, learn, assert_svi_slope):
    model = Net()
    guide = semi(model, 2, pm.Newton(0.05, learn=learn), loss=elbo(kind))
    guide(rows())
    assert len(guide.learned) == (0 if learn is None else 1)
    assert_svi_slope(kind(), model, guide, (rows(),), [guide, model])


def test_a_full_covariance(assert_svi_slope):
    model = Net()
    assert_svi_slope(Trace_ELBO(), model, semi(model, 1, pm.Newton(0.05), family="full_covariance"), (rows(),), [model])


@pytest.mark.usefixtures("zero_noise")
def test_a_datum_is_refined_by_itself():
    guide, x = semi(Net(), 4), 3 * rows()
    together = guide.propose(x)
    for i in range(len(x)):
        for parameter, value in guide.propose(x[i : i + 1]).items():
            torch.testing.assert_close(value[0], together[parameter][i], rtol=1e-9, atol=1e-10)


def test_all_steps_see_one_draw_and_each_call_another():
    """So they converge, in digits, to what this draw says."""
    guide, x = semi(Net(), 6, loss=elbo(particles=8)), rows()
    more = SemiAmortizedGuide(guide.guide, 7, pm.Newton(), loss=elbo(particles=8))
    ends = []
    with torch.no_grad():
        more.propose(x)
        for each, seed in ((guide, 5), (more, 5), (more, 6)):
            each.propose(x)
            torch.manual_seed(seed)
            ends.append(each.propose(x)["z.loc"])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-9)
    assert (ends[1] - ends[2]).abs().max() > 1e-3


LOOP, TOGETHER, RECORDED = pm.Engine(vectorize=False), pm.Engine(vectorize=True), pm.Engine(record=True)


def meta_svi(model, guide, engine, **options):
    return pm.MetaSVI(model, guide, pyro.optim.Adam({}), Trace_ELBO(), pm.SGD(0.01), engine=engine, **options)


def found(meta, *data):
    meta.init(data[0])
    torch.manual_seed(3)
    return meta.loss_and_grads(*data)


@pytest.mark.parametrize("engine", [TOGETHER, pytest.param(RECORDED, marks=pytest.mark.slow)])
def test_the_gradient_of_tasks_and_all_ways_to_run(engine, assert_meta_slope):
    model, support = Net(), rows(2)
    guide = semi(model, 1, pm.Newton(0.05, learn="damping"))
    loop, other = (meta_svi(model, guide, each, steps=0) for each in (LOOP, engine))
    assert_meta_slope(loop, support, None)
    torch.testing.assert_close(found(other, support), found(loop, support), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_inner_steps_through_it_are_of_first_order():
    """A step has a derivative, and its derivative has none."""
    model, data, first = Net(), (rows(2), rows(2)), pm.Unrolled(first_order=True)
    guide = semi(model, 1, pm.Newton(0.05))
    ends = [found(meta_svi(model, guide, each, steps=1, meta_gradient=first), *data) for each in (LOOP, TOGETHER)]
    torch.testing.assert_close(*ends, rtol=1e-8, atol=1e-9)
    with pytest.raises(pm.UnsupportedProgramError, match=r"wrong second derivative.*Unrolled\(first_order=True\)"):
        found(meta_svi(model, guide, LOOP, steps=1), *data)


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_fresh_guide_by_an_elbo_that_guesses_its_plates(kind):
    """To guess, an ELBO draws before its particles do, and once only: the steps' one draw is none of that."""
    ends, x, amortized = [], rows(), AmortizedGuide(Net(), encoder())
    amortized(x)  # makes its heads
    for loss in (elbo(kind), kind(num_particles=4, vectorize_particles=True)):
        guide = SemiAmortizedGuide(amortized, 3, pm.Newton(), loss=loss)
        torch.manual_seed(5)
        ends.append(guide.propose(x))
    torch.testing.assert_close(*ends, rtol=0, atol=0)
    gaps = inference_gaps(guide.model, guide, x, steps=2, num_samples=2)
    assert gaps.amortized.isfinite().all()


def test_plain_svi_trains_encoder_model_and_damping():
    model, x = Net(), rows()
    guide = semi(model, 2, pm.Newton(0.1, learn="damping"))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(12)]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert guide.learned["log_damping"].exp().item() != pytest.approx(0.1)


def pulled(x, pull=1.0):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, DIM), 1.0).to_event(1), obs=x)
    pyro.factor("pull", -pull * (z[..., 1:] - z[..., :-1]).square().sum(-1))


def test_data_that_depend_on_each_other_are_refused():
    with pytest.raises(ValueError, match=r"the data depend on each other .* use rule=Momentum\(lr\)"):
        SemiAmortizedGuide(AmortizedGuide(pulled, lambda x, *_: x), 2, pm.Newton())(rows())


def test_data_that_come_to_depend_on_each_other_are_refused():
    guide = SemiAmortizedGuide(AmortizedGuide(pulled, lambda x, *_: x), 2, pm.Newton())
    guide(rows(), 0.0)
    with pytest.raises(ValueError, match="the data depend on each other"):
        guide(rows(), 0.1)


def two_latents(x):
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal((w + z)[:, None].expand(-1, DIM), 1.0).to_event(1), obs=x)


def test_sites_in_different_plates_are_refused():
    guide = AmortizedGuide(two_latents, lambda x: {"w": x.mean(0), "z": x})
    with pytest.raises(ValueError, match=r"Newton refines sites in the same.*'w.loc' has .*\(\).*'z.loc' \(4,\)"):
        SemiAmortizedGuide(guide, 1, pm.Newton())(rows())


def closed_form(model, guide, x):
    return guide(x)["z"].square().sum()


@pytest.mark.parametrize("loss", [closed_form, RenyiELBO(alpha=0.0, num_particles=2)])
def test_a_loss_that_is_no_sum_over_data_is_refused(loss):
    with pytest.raises(ValueError, match=r"its own loss, and this loss is no sum over data.* give Trace_ELBO\(\)"):
        semi(Net(), 1, loss=loss)(rows())


def test_a_loss_that_counts_a_datum_in_the_place_of_another_is_refused():
    def backwards(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        with pyro.plate("backwards", len(x)):
            pyro.sample("x", dist.Normal(z.flip(-1), 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match="keep each datum's sites at its place in the plate"):
        SemiAmortizedGuide(AmortizedGuide(backwards, lambda x: x), 1, pm.Newton(), loss=elbo())(rows())


def test_more_numbers_of_a_datum_than_max_dim_are_refused():
    with pytest.raises(ValueError, match=r"4 numbers of a datum are refined.*max_dim=3.* give a larger max_dim"):
        semi(Net(), 1, pm.Newton(max_dim=3))(rows())
