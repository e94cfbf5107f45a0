"""SetEncoderGuide and its poolings: sets have no order, any size, and padding says nothing."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from torch import nn
from torch.func import vmap

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, AttentionPooling, SetEncoderGuide
from pyrometa.guides.pooling import pool_of

F64 = torch.float64
POOLINGS = ["mean_and_count", "mean", "sum", "max", "attention"]


def pooling_of(name, features=4):
    return AttentionPooling(features, heads=2).double() if name == "attention" else name


def regression(x, y, mask=None):
    """Bayesian linear regression; rows that the mask leaves out are missing."""
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 0.3))
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=True if mask is None else mask):
        pyro.sample("y", dist.Normal(x @ w, noise), obs=y)


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()

    def forward(self, x, y, mask=None):
        features = self.net(torch.cat([x, y[:, None]], dim=-1))
        return features if mask is None else (features, mask)


def data(*leading):
    return torch.randn(*leading, 2, dtype=F64), torch.randn(*leading, dtype=F64)


def set_encoder(pooling="mean", family="mean_field"):
    torch.manual_seed(0)
    return SetEncoderGuide(regression, Rows(), pooling=pooling_of(pooling), family=family)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_the_set_says_nothing(pooling):
    guide, (x, y) = set_encoder(pooling), data(7)
    order = torch.randperm(7)
    torch.testing.assert_close(guide.amortized.propose(x, y), guide.amortized.propose(x[order], y[order]))
    other = guide.amortized.propose(x, y.flip(0))
    assert not torch.allclose(other["w.loc"], guide.amortized.propose(x, y)["w.loc"])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_ragged_is_padded(pooling, size):
    guide, (x, y) = set_encoder(pooling), data(7)
    mask = torch.arange(7) < size
    padded = guide.amortized.propose(x, torch.where(mask, y, 1e6), mask)
    torch.testing.assert_close(padded, guide.amortized.propose(x[:size], y[:size]))


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
def test_an_empty_set_pools_to_zeros(pooling):
    rows = torch.randn(5, 3, requires_grad=True)
    pooled = pool_of(pooling)(rows, torch.zeros(5, dtype=torch.bool))
    torch.testing.assert_close(pooled, torch.zeros(3))
    (grad,) = torch.autograd.grad(pooled.sum(), rows)
    assert torch.equal(grad, torch.zeros(5, 3))


def test_poolings_by_hand():
    rows, mask = torch.tensor([[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]]), torch.tensor([True, True, False])
    counted = [2.0, -3.0, math.log(3), 1 / 3]
    torch.testing.assert_close(pool_of("mean_and_count")(rows, mask), torch.tensor(counted))
    for name, expected in {"mean": [2.0, -3.0], "sum": [4.0, -6.0], "max": [3.0, -2.0]}.items():
        assert pool_of(name)(rows, mask).tolist() == expected


def test_attention_is_torchs():
    """The same numbers as torch.nn.MultiheadAttention with the same weights, and the same residual blocks."""
    torch.manual_seed(0)
    pool, rows = AttentionPooling(8, heads=2), torch.randn(6, 8)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([pool.query.weight, pool.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([pool.query.bias, pool.key_value.bias]))
        theirs.out_proj.load_state_dict(pool.out.state_dict())
    mask = torch.arange(6) < 4
    seed = pool.seed[None, None]
    attended, _ = theirs(seed, rows[None], rows[None], key_padding_mask=~mask[None])
    h = pool.norm(seed + attended)
    expected = pool.feed_norm(h + torch.relu(pool.feed(h)))[0, 0]
    torch.testing.assert_close(pool(rows, mask), expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_twice_differentiated_and_under_vmap(pooling):
    pool, rows = pool_of(pooling_of(pooling)), torch.randn(2, 3, 4, dtype=F64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(lambda r: pool(r, mask), rows)
    assert torch.autograd.gradgradcheck(lambda r: pool(r, mask), rows)
    torch.testing.assert_close(vmap(pool)(rows, mask), pool(rows, mask))


def test_the_conjugate_posterior_is_reached():
    """Mean of normals, sets of three: the posterior mean is the set's mean times 3/4, and the ELBO the evidence."""

    def model(x):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    x = torch.randn(3, 1, dtype=F64)
    guide = SetEncoderGuide(model, lambda x: x, pooling="mean")
    guide(x)
    head = guide.amortized.heads["mean"]
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.75], [0.0]]))
        head.bias.copy_(torch.tensor([0.0, torch.expm1(torch.tensor(0.5, dtype=F64)).log() - 0.5413248546129181]))
    covariance = torch.ones(3, 3, dtype=F64) + torch.eye(3, dtype=F64)
    evidence = dist.MultivariateNormal(torch.zeros(3, dtype=F64), covariance).log_prob(x[:, 0])
    torch.testing.assert_close(-Trace_ELBO().differentiable_loss(model, guide, x), evidence, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 4.0])
def test_a_linear_head_can_give_the_width_of_a_normal_mean(noise):
    """Exact to a fiftieth for all sets of 1 to 30 rows, where on the mean of the rows alone it is one number."""
    sizes = torch.arange(1, 31)
    masks = torch.arange(30) < sizes[:, None]
    features = pool_of("mean_and_count")(torch.zeros(30, 30, 1, dtype=F64), masks)
    inputs, exact = torch.cat([features, torch.ones(30, 1, dtype=F64)], -1), (1 + sizes.to(F64) / noise**2) ** -0.5
    weights = torch.zeros(4, dtype=F64, requires_grad=True)
    optim = torch.optim.LBFGS([weights], max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def divergence():
        optim.zero_grad()
        ratio = nn.functional.softplus(inputs @ weights) / exact
        loss = (ratio.square() / 2 - ratio.log()).mean()
        loss.backward()
        return loss

    optim.step(divergence)
    torch.testing.assert_close(nn.functional.softplus(inputs @ weights).detach(), exact, rtol=0.02, atol=0)


@pytest.mark.slow
def test_the_width_of_a_posterior_goes_with_the_number_of_rows():
    """Trained on normal means with sets of 1 to 30 rows, the standard deviation is exact to a tenth at every size."""

    def model(x):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    torch.manual_seed(0)
    guide = SetEncoderGuide(model, nn.Linear(1, 8))
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), steps=0)
    for _ in range(1000):
        size = int(torch.randint(1, 31, ()))
        meta.step(torch.randn(64, 1, 1) + torch.randn(64, size, 1))
    for size in (1, 3, 10, 30):
        sets = torch.randn(50, 1, 1) + torch.randn(50, size, 1)
        traces = [pyro.poutine.trace(guide).get_trace(x) for x in sets]
        widths = torch.stack([trace.nodes["mean"]["fn"].base_dist.scale for trace in traces])
        assert widths.mean().item() == pytest.approx((1 + size) ** -0.5, rel=0.1)


@pytest.mark.parametrize("family", ["mean_field", "full_covariance"])
def test_condition_fixes_the_posterior(family):
    guide, support, query = set_encoder(family=family), data(5), data(3)
    guide(*support)
    keys = list(pyro.get_param_store().keys())
    given = guide.condition(*support)
    for seed in range(2):
        torch.manual_seed(seed)
        expected = guide(*support)
        torch.manual_seed(seed)
        torch.testing.assert_close(given(*query), expected, rtol=0, atol=0)
    assert list(pyro.get_param_store().keys()) == keys


def test_gradient_through_condition(assert_svi_slope):
    guide, support, query = set_encoder("attention"), data(5), data(3)

    def given(*args):
        return guide.condition(*support)(*args)

    assert_svi_slope(Trace_ELBO(), regression, given, query, [guide])


def test_plain_svi_on_a_conditioned_guide_trains_the_encoder():
    guide, support, query = set_encoder(), data(5), data(3)
    given = guide.condition(*support)
    given(*query)
    before = [p.detach().clone() for p in guide.parameters()]
    SVI(regression, given, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(*query)
    assert all(not torch.equal(p, b) for p, b in zip(guide.parameters(), before, strict=True))


@pytest.mark.usefixtures("zero_noise")
def test_condition_under_vmap():
    guide, supports, queries = set_encoder("attention"), data(4, 5), data(4, 3)
    guide(*(x[0] for x in supports))

    def log_density(support, query):
        with pyro.validation_enabled(False):
            return pyro.poutine.trace(guide.condition(*support)).get_trace(*query).log_prob_sum()

    one_by_one = [log_density([x[i] for x in supports], [x[i] for x in queries]) for i in range(4)]
    torch.testing.assert_close(vmap(log_density)(supports, queries), torch.stack(one_by_one))
    assert torch.stack(one_by_one).std() > 0


def meta_svi(guide, steps, vectorize=True):
    return pm.MetaSVI(
        regression,
        guide,
        pyro.optim.Adam({"lr": 1e-2}),
        loss=Trace_ELBO(),
        inner=pm.SGD(0.002),
        steps=steps,
        engine=pm.Engine(vectorize=vectorize),
    )


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_meta_gradient(pooling, steps, assert_meta_slope):
    support, query, found = data(3, 5), data(3, 4), []
    for vectorize in (False, True):
        meta = meta_svi(set_encoder(pooling), steps, vectorize)
        torch.manual_seed(1)
        found.append(meta.loss_and_grads(support, query))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert_meta_slope(meta, support, query)


@pytest.mark.usefixtures("zero_noise")
def test_meta_svi_conditions_on_the_support_set():
    guide, support, query = set_encoder(), data(3, 5), data(3, 4)
    meta = meta_svi(guide, steps=0)
    losses = meta.evaluate(support, query, steps=(0,))[0]
    for i in range(3):
        support_i, query_i = [x[i] for x in support], [x[i] for x in query]
        expected = Trace_ELBO().differentiable_loss(regression, guide.condition(*support_i), *query_i)
        torch.testing.assert_close(losses[i], expected.detach())
        adapted = meta.adapt(tuple(support_i))
        drawn = Predictive(adapted.model, guide=adapted, num_samples=2)(*query_i)
        torch.testing.assert_close(drawn["w"][0].squeeze(0), guide(*support_i)["w"])
        assert drawn["noise"].min() > 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SetEncoderGuide(regression, 3), TypeError, "encoder must be callable"),
        (lambda: SetEncoderGuide(regression, Rows(), pooling="median"), ValueError, "'mean', 'sum', 'max' or a module"),
        (lambda: AttentionPooling(6, heads=4), ValueError, "multiple of heads, got 6 and 4"),
        (lambda: SetEncoderGuide(regression, lambda x, y: y)(*data(3)), ValueError, r"\(N, features\), got \(3,\)"),
        (lambda: SetEncoderGuide(regression, lambda x, y: 1)(*data(3)), ValueError, "got int"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_local_latents_are_left_to_others():
    def model(x):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(c, 1.0))
            pyro.sample("x", dist.Normal(z[:, None], 1.0).to_event(1), obs=x)

    x = torch.randn(5, 1)
    assert set(SetEncoderGuide(model, lambda x: x, sites=["c"])(x)) == {"c"}
    with pytest.raises(ValueError, match="'z', which is in plates data"):
        SetEncoderGuide(model, lambda x: x)(x)
    assert set(AmortizedGuide(model, lambda x: x, sites=["z"])(x)) == {"z"}
