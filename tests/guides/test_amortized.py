"""AmortizedGuide: exact where the family holds the posterior, for every support, plate and family."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import biject_to, constraints

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, Flow, FullCovariance, MeanField

F64 = torch.float64
SCALE_ONE = 0.5413248546129181  # softplus of it is one


class Skewed(nn.Module):
    """A flow as zuko's are: a module of the context to a distribution of torch."""

    def __init__(self, dim, features):
        super().__init__()
        self.net = nn.Linear(features, 2 * dim).double()

    def forward(self, context):
        loc, log_scale = self.net(context).chunk(2, dim=-1)
        normal = torch.distributions.Normal(loc, log_scale.exp())
        skewed = torch.distributions.TransformedDistribution(normal, [torch.distributions.SoftplusTransform()])
        return torch.distributions.Independent(skewed, 1)


def own(dim, features):
    return Flow(Skewed(dim, features), features)


FAMILIES = ["mean_field", "full_covariance", "flow", own]


class Identity(nn.Module):
    def forward(self, x, *_):
        return x


class Linear(nn.Module):
    """x = W z + noise, z standard normal: the posterior and the evidence are known."""

    def __init__(self, weight):
        super().__init__()
        self.weight, self.noise = weight, 0.5

    def forward(self, x, rows=None, index=None):
        with pyro.plate("data", rows or len(x), subsample=index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T, self.noise).to_event(1), obs=x)

    def evidence(self, x):
        covariance = self.weight @ self.weight.T + self.noise**2 * torch.eye(len(self.weight), dtype=F64)
        return dist.MultivariateNormal(x.new_zeros(len(self.weight)), covariance).log_prob(x)

    def posterior(self):
        covariance = torch.linalg.inv(torch.eye(2, dtype=F64) + self.weight.T @ self.weight / self.noise**2)
        return covariance @ self.weight.T / self.noise**2, covariance


def correlated():
    return Linear(torch.tensor([[1.0, 0.4], [-0.3, 0.8], [0.5, 1.2]], dtype=F64))


def diagonal():
    return Linear(torch.tensor([[1.0, 0.0], [0.0, 0.6]], dtype=F64))


def inverse_softplus(value):
    return torch.log(torch.expm1(value)) - SCALE_ONE


def at_the_posterior(model, x, family):
    """The guide with its head set to the exact posterior."""
    guide = AmortizedGuide(model, Identity(), family=family)
    guide(x)
    gain, covariance = model.posterior()
    tril = torch.linalg.cholesky(covariance)
    if family == "mean_field":
        spread = inverse_softplus(tril.diagonal())
    else:
        row, column = torch.tril_indices(2, 2)
        spread = torch.where(row == column, inverse_softplus(tril[row, column].abs()), tril[row, column])
    head = guide.heads["z"]
    with torch.no_grad():
        head.weight.zero_()
        head.weight[:2] = gain
        head.bias.copy_(torch.cat([torch.zeros(2, dtype=F64), spread]))
    return guide


@pytest.mark.parametrize(("make", "family"), [(diagonal, "mean_field"), (correlated, "full_covariance")])
def test_the_exact_posterior_is_in_the_family_and_then_the_elbo_is_the_evidence(make, family):
    model, x = make(), torch.randn(5, len(make().weight), dtype=F64)
    guide = at_the_posterior(model, x, family)
    for _ in range(3):  # whatever is drawn
        loss = Trace_ELBO().differentiable_loss(model, guide, x)
        torch.testing.assert_close(-loss, model.evidence(x).sum(), rtol=1e-12, atol=1e-10)


def test_mini_batches_in_a_plate_of_more_rows_are_scaled():
    model, x = correlated(), torch.randn(5, 3, dtype=F64)
    guide = at_the_posterior(model, x, "full_covariance")
    fresh = AmortizedGuide(model, Identity(), family="full_covariance")
    fresh(x, 100, torch.arange(5))
    fresh.load_state_dict(guide.state_dict())
    loss = Trace_ELBO().differentiable_loss(model, fresh, x, 100, torch.arange(5))
    torch.testing.assert_close(-loss, 20 * model.evidence(x).sum(), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("family", "steps", "gap"), [("full_covariance", 250, 0.03), ("flow", 100, 0.25)])
def test_plain_svi_learns_a_correlated_posterior(family, steps, gap):
    model, x = correlated(), torch.randn(20, 3, dtype=F64)
    guide = AmortizedGuide(model, Identity(), family=family)
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.02 ** (1 / steps)}), Trace_ELBO())

    def mean_gap():
        return sum(svi.evaluate_loss(x) for _ in range(20)) / 20 / len(x) + model.evidence(x).mean().item()

    assert mean_gap() > 1.5
    for _ in range(steps):
        svi.step(x)
    assert mean_gap() < gap


SUPPORTS = {
    "real": (constraints.real, ()),
    "matrix": (constraints.independent(constraints.real, 2), (2, 3)),
    "positive": (constraints.positive, ()),
    "interval": (constraints.interval(-1.0, 2.0), ()),
    "positives": (constraints.independent(constraints.positive, 1), (3,)),
    "simplex": (constraints.simplex, (3,)),
    "corr_cholesky": (constraints.corr_cholesky, (3,)),
}


class OnSupport(dist.TransformedDistribution):
    """Standard normal on the reals: with zero heads, a guide is exactly it."""

    def __init__(self, support, zeros):
        self._support = support
        super().__init__(dist.Normal(zeros, 1.0).to_event(zeros.dim()), [biject_to(support)])

    @property
    def support(self):
        return self._support

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(OnSupport, _instance)
        new._support = self._support
        return super().expand(batch_shape, _instance=new)


def on_support(support, shape, plate):
    def model(x):
        fn = OnSupport(support, x.new_zeros(shape))
        if not plate:
            return pyro.sample("w", fn)
        with pyro.plate("data", len(x)):
            return pyro.sample("w", fn)

    return model, (lambda x: x) if plate else (lambda x: x.mean(0))


@pytest.mark.parametrize("plate", [True, False], ids=["local", "global"])
@pytest.mark.parametrize("family", ["mean_field", "full_covariance"])
@pytest.mark.parametrize("name", SUPPORTS)
def test_supports_are_kept_and_densities_are_right(name, family, plate):
    support, shape = SUPPORTS[name]
    model, encoder = on_support(support, shape, plate)
    x = torch.randn(4, 3, dtype=F64)
    guide = AmortizedGuide(model, encoder, family=family)
    value = guide(x)["w"]
    assert support.check(value).all()
    assert value.shape == ((4,) if plate else ()) + biject_to(support).forward_shape(torch.Size(shape))
    for parameter in guide.heads.parameters():
        parameter.data.zero_()
    loss = Trace_ELBO().differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, torch.zeros((), dtype=F64), rtol=0, atol=1e-10)


def test_mean_field_uses_divergences_in_closed_form():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 2.0).to_event(1))

    x = torch.randn(5, 2, dtype=F64)
    guide = AmortizedGuide(model, Identity())
    q = poutine.trace(guide).get_trace(x).nodes["z"]["fn"]
    expected = torch.distributions.kl_divergence(q.base_dist, dist.Normal(x.new_zeros(5, 2), 2.0)).sum()
    torch.testing.assert_close(TraceMeanField_ELBO().differentiable_loss(model, guide, x), expected)


def nested(x):
    """A global site, one in the inner plate, two in both; the data are (rows, columns, 2)."""
    rows, columns = x.shape[:2]
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("columns", columns, dim=-1):
        s = pyro.sample("s", dist.LogNormal(x.new_zeros(()), 0.3))
        with pyro.plate("rows", rows, dim=-2):
            a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
            b = pyro.sample("b", dist.Normal(w, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(a[..., None] + b, s[..., None]).to_event(1), obs=x)


def nested_features(x):
    return {"w": x.mean((0, 1)), "s": x.mean(0), "a": x, "b": 2 * x}


@pytest.mark.parametrize("family", FAMILIES)
def test_nested_plates_of_any_size(family, assert_svi_slope):
    guide = AmortizedGuide(nested, nested_features, family=family)
    for sizes in ((3, 4), (5, 2), (1, 1)):
        x = torch.randn(*sizes, 2, dtype=F64)
        values = guide(x)
        shapes = {name: tuple(value.shape) for name, value in values.items()}
        assert shapes == {"w": (2,), "s": sizes[1:], "a": sizes, "b": (*sizes, 2)}
        assert (values["s"] > 0).all()
        assert torch.isfinite(Trace_ELBO().differentiable_loss(nested, guide, x))
    assert set(guide.heads) == ({"w", "s", "a", "b"} if family == "mean_field" else {"w", "s", "a+b"})
    assert_svi_slope(Trace_ELBO(), nested, guide, (torch.randn(3, 2, 2, dtype=F64),), [guide])


@pytest.mark.parametrize("family", FAMILIES)
def test_vectorised_particles_and_predictive(family):
    model, x = correlated(), torch.randn(5, 3, dtype=F64)
    guide = AmortizedGuide(model, Identity(), family=family)
    elbo = Trace_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    many = elbo.differentiable_loss(model, guide, x)
    one_by_one = torch.stack([Trace_ELBO().differentiable_loss(model, guide, x) for _ in range(60)]).detach()
    assert abs(many - one_by_one.mean()) < 5 * one_by_one.std() / 60**0.5
    for parallel in (False, True):
        drawn = Predictive(model, guide=guide, num_samples=7, parallel=parallel)(x)
        assert drawn["z"].shape == (7, 5, 2)


def test_sites_by_name_leave_the_others_to_other_guides():
    guide = AmortizedGuide(nested, nested_features, sites=["b", "s"])
    assert set(guide(torch.randn(3, 4, 2, dtype=F64))) == {"b", "s"}


def test_enumerated_sites_are_left_out():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x[:, 0])

    assert set(AmortizedGuide(model, Identity())(torch.randn(3, 2))) == {"z"}
    with pytest.raises(ValueError, match="site 'k' is discrete"):
        AmortizedGuide(model, Identity(), sites=["k"])(torch.randn(3, 2))


def test_the_set_up_leaves_nothing_behind_but_the_guides_parameters():
    model, x = correlated(), torch.randn(5, 3, dtype=F64)
    guide = AmortizedGuide(model, Identity())
    with poutine.trace() as outer:
        guide(x)
    assert [n for n, site in outer.trace.nodes.items() if site["type"] == "sample"] == ["z"]
    assert set(pyro.get_param_store().keys()) == {"heads$$$z.weight", "heads$$$z.bias"}
    assert guide.heads["z"].weight.dtype == F64


def test_a_flow_is_a_density():
    model, x = correlated(), torch.randn(2, 3, dtype=F64)
    guide = AmortizedGuide(model, lambda x: 2 * x, family="flow")
    latent = poutine.trace(guide).get_trace(x).nodes["_z_latent"]
    side = torch.linspace(-8, 8, 161, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    mass = latent["fn"].dist.log_prob(grid[:, None]).exp().sum(0) * (side[1] - side[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2, dtype=F64), rtol=1e-3, atol=0)
    value, log_prob = latent["value"], latent["fn"].log_prob(latent["value"])
    torch.testing.assert_close(log_prob, latent["fn"].dist.log_prob(value), rtol=1e-8, atol=1e-8)


def test_zuko_is_imported_without_switching_validation_off(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    AmortizedGuide(correlated(), Identity(), family="flow")(torch.randn(5, 3, dtype=F64))
    assert "zuko" in sys.modules
    assert pyro.settings.get("validate_distributions_torch")


def test_sizes_of_families():
    assert MeanField(3).sizes == {"loc": 3, "scale": 3}
    assert FullCovariance(3).sizes == {"loc": 3, "tril": 6}
    assert own(3, 5).sizes == {"context": 5}


def test_a_mixture_of_zukos_in_plates():
    def mixture(dim, features):
        with pyro.settings.context(validate_distributions_torch=True):
            import zuko
        return Flow(zuko.flows.GMM(dim, features, components=2, hidden_features=(4,)), features)

    x = torch.randn(5, 3, dtype=F64)
    guide = AmortizedGuide(correlated(), Identity(), family=mixture).double()
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    assert trace.log_prob_sum().isfinite()


def test_a_flow_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    guide = AmortizedGuide(correlated(), Identity(), family="flow")
    with pytest.raises(ImportError, match=r"pyrometa\[flows\]"):
        guide(torch.randn(5, 3, dtype=F64))


@pytest.mark.parametrize("family", FAMILIES)
def test_meta_gradient(family, assert_meta_slope):
    model = correlated()
    encoder = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).double()
    support, query = torch.randn(3, 4, 3, dtype=F64), torch.randn(3, 5, 3, dtype=F64)
    found = []
    guide = AmortizedGuide(model, encoder, family=family)
    for vectorize in (False, True):
        meta = pm.MetaSVI(
            model,
            guide,
            pyro.optim.Adam({"lr": 1e-2}),
            inner=pm.SGD(0.01),
            steps=2,
            engine=pm.Engine(vectorize=vectorize),
        )
        if vectorize:
            assert_meta_slope(meta, support, query)
        torch.manual_seed(3)
        found.append(meta.loss_and_grads(support, query))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    adapted = meta.adapt(support[0])
    assert Predictive(adapted.model, guide=adapted, num_samples=2)(query[0])["z"].shape == (2, 5, 2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": None}, TypeError, "model must be callable"),
        ({"encoder": 3}, TypeError, "encoder must be callable"),
        ({"sites": "z"}, TypeError, r"write \['z'\]"),
        ({"family": "normal"}, ValueError, "family must be one of 'mean_field', 'full_covariance', 'flow'"),
        ({"sites": ["y"]}, ValueError, "no latent site 'y': it has 'z'"),
        ({"sites": []}, ValueError, "no latent sites for this guide"),
        ({"encoder": lambda x: x[0]}, ValueError, r"in plates data, must have shape \(data, features\), got \(3,\)"),
        ({"encoder": lambda x: x[:2]}, ValueError, "2 rows of features for 'z', whose plate 'data' has 5"),
        ({"encoder": lambda x: (x, x)}, TypeError, "must return a tensor of features"),
        ({"encoder": lambda x: {"y": x}}, ValueError, "features for y, and none for 'z'"),
    ],
)
def test_bad_input(options, error, message):
    given = {"model": correlated(), "encoder": Identity(), **options}
    with pytest.raises(error, match=message):
        AmortizedGuide(given.pop("model"), given.pop("encoder"), **given)(torch.randn(5, 3, dtype=F64))


def test_names_with_dots():
    class Layer(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = PyroModule()
            self.net.weight = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))
            self.net.bias = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, x):
            mean = x @ self.net.weight + self.net.bias
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])

    for family in ("mean_field", "full_covariance"):
        guide = AmortizedGuide(Layer(), lambda x: x.mean(0), family=family)
        values = guide(torch.randn(3, 2))
        assert {name: value.shape for name, value in values.items()} == {"net.weight": (2,), "net.bias": ()}
        assert torch.isfinite(Trace_ELBO().differentiable_loss(guide.model, guide, torch.randn(5, 2)))


def test_undeclared_batch_dimensions_are_refused():
    def model(x):
        pyro.sample("w", dist.Normal(torch.zeros(3), 1.0))

    with pytest.raises(ValueError, match=r"site 'w' has batch shape \(3,\).*to_event"):
        AmortizedGuide(model, lambda x: x)(torch.randn(3))


def test_features_of_rows_for_a_global_site_are_refused():
    with pytest.raises(ValueError, match=r"'w', which is outside of any plate.*SetEncoderGuide"):
        AmortizedGuide(nested, lambda x: x, sites=["w"])(torch.randn(3, 4, 2))
