"""SemiAmortizedGuide: the refinement and the gradient through it are exact, in plain SVI and under MetaSVI."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from programs import DIM, Decoder, TutorialVAE
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide
from pyrometa.inner import LearnedOptimizer, Momentum

F64 = torch.float64
RATE = 0.05


def encoder():
    return nn.Sequential(nn.Linear(DIM, 3), nn.Tanh()).double()


def semi(model, steps=3, rule=None, **options):
    family = options.pop("family", "mean_field")
    return SemiAmortizedGuide(AmortizedGuide(model, encoder(), family=family), steps, rule or pm.SGD(RATE), **options)


def rows(*leading):
    return torch.randn(*leading, 4, DIM, dtype=F64)


def by_hand(x, encode, head, decoder, noise, rates):
    """Decoder's loss with the noise at zero, in closed form and without Pyro: before and after refinement."""

    def loss(loc, raw):
        scale = F.softplus(raw + 0.5413248546129181)
        kl = (loc**2 + scale**2 - 1).sum() / 2 - scale.log().sum()
        return kl - dist.Normal(F.linear(loc, *decoder), noise).log_prob(x).sum()

    loc, raw = F.linear(encode(x), *head).chunk(2, dim=-1)
    for rate_loc, rate_raw in rates:
        grads = torch.autograd.grad(loss(loc, raw), (loc, raw), create_graph=True)
        loc, raw = loc - rate_loc * grads[0], raw - rate_raw * grads[1]
    return (loc, raw), loss(loc, raw)


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize("learn", [None, "layer_step"])
def test_refinement_taken_by_hand(learn):
    model, x = Decoder().double(), rows()
    guide = semi(model, rule=pm.SGD(RATE, learn=learn))
    loss = TraceMeanField_ELBO().differentiable_loss(model, guide, x)
    head = guide.guide.heads["z"]
    learned = dict(guide.learned.items())
    rates = [(RATE, RATE)] * 3
    if learn:
        for value in learned.values():
            value.data += torch.randn(3, dtype=F64) / 3
        rates = list(zip(learned["log_lr/z/loc"].exp(), learned["log_lr/z/scale"].exp(), strict=True))
        loss = TraceMeanField_ELBO().differentiable_loss(model, guide, x)
    linear = (model.linear.weight, model.linear.bias)
    refined, expected = by_hand(x, guide.guide.encoder, (head.weight, head.bias), linear, model.noise, rates)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    proposal = guide.propose(x)
    torch.testing.assert_close((proposal["z.loc"], proposal["z.scale"]), refined, rtol=1e-12, atol=1e-12)
    leaves = [*guide.parameters(), *model.parameters()]
    found, wanted = torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)
    assert len(leaves) == (9 if learn else 7)


RULES = {
    "sgd": (lambda: pm.SGD(RATE), 0),
    "rate": (lambda: pm.SGD(RATE, learn="rate"), 1),
    "parameter": (lambda: pm.SGD(RATE, learn="parameter"), 2),
    "momentum": (lambda: Momentum(RATE, momentum=0.8, learn="layer"), 2),
    "iterative": (lambda: LearnedOptimizer(RATE, hidden=3), 4),
}


def perturb(learned):
    """Away from where a network says nothing."""
    generator = torch.Generator().manual_seed(0)
    for value in learned.values():
        value.data += 0.1 * torch.randn(value.shape, generator=generator, dtype=F64)


@pytest.mark.parametrize("name", RULES)
def test_gradient_in_plain_svi(name, assert_svi_slope):
    rule, learned = RULES[name]
    model = Decoder().double()
    guide = semi(model, rule=rule())
    guide(rows())
    assert len(guide.learned) == learned
    perturb(guide.learned)
    assert_svi_slope(Trace_ELBO(), model, guide, (rows(),), [guide, model])


@pytest.mark.parametrize("family", ["full_covariance", "flow"])
def test_richer_families(family, assert_svi_slope):
    model = Decoder().double()
    assert_svi_slope(Trace_ELBO(), model, semi(model, family=family), (rows(),), [model])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("zero_noise")
def test_a_datum_is_refined_by_itself(name):
    guide, x = semi(Decoder().double(), rule=RULES[name][0]()), rows()
    guide.propose(x)
    perturb(guide.learned)
    together = guide.propose(x)
    for i in range(len(x)):
        alone = guide.propose(x[i : i + 1])
        for parameter, value in alone.items():
            torch.testing.assert_close(value[0], together[parameter][i], rtol=1e-10, atol=1e-12)


def test_the_amortisation_gap_closes():
    """x = z + noise: the posterior is mean-field, so what is left after refinement is the evidence."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def closed_form(model, guide, x):
        q = poutine.trace(guide).get_trace(x).nodes["z"]["fn"].base_dist
        kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(x), 1.0)).sum()
        return kl - dist.Normal(q.loc, 0.5).log_prob(x).sum() + (q.scale**2 / 0.5**2).sum() / 2

    x = rows()
    evidence = dist.Normal(torch.zeros_like(x), 1.25**0.5).log_prob(x).sum()
    gaps = []
    for steps in (0, 5, 200):
        torch.manual_seed(0)
        guide = semi(model, steps, pm.SGD(0.1), loss=closed_form)
        gaps.append((closed_form(model, guide, x) + evidence).item())
    assert gaps[0] > gaps[1] > gaps[2]
    assert 0 <= gaps[2] < 1e-8


def test_plain_svi_trains_encoder_model_and_rates():
    torch.manual_seed(0)
    vae = TutorialVAE().double()
    guide = semi(vae.model, rule=pm.SGD(RATE, learn="rate"))
    x = 2 + torch.randn(30, 1, dtype=F64) * torch.tensor([1.0, -0.5], dtype=F64)
    svi = SVI(vae.model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    losses = [svi.step(x) for _ in range(80)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    names = set(pyro.get_param_store().keys())
    assert {"learned$$$log_lr", "decoder$$$weight", "guide.encoder$$$0.weight"} <= names
    assert guide.learned["log_lr"].exp() != RATE


def test_nothing_of_the_refinement_reaches_the_handlers_outside():
    model, x = Decoder().double(), rows()
    guide = semi(model)
    with poutine.trace() as outer, poutine.condition(data={"x": x + 100}):
        guide(x)
    sites = outer.trace.nodes
    assert [n for n, site in sites.items() if site["type"] == "sample"] == ["z"]
    params = [n for n, site in sites.items() if site["type"] == "param"]
    assert params
    assert all(n.startswith(("guide.", "heads")) for n in params)
    assert not pyro.poutine.runtime._PYRO_STACK


def test_predictive_refines_without_grad():
    model = Decoder().double()
    guide = semi(model)
    with torch.no_grad():
        before = guide.guide.propose(rows())
        assert not torch.equal(guide.propose(rows())["z.loc"], before["z.loc"])
    drawn = Predictive(model, guide=guide, num_samples=3)(rows())
    assert drawn["z"].shape == (3, 4, 1)


def test_no_steps_is_the_amortised_guide():
    guide = semi(Decoder().double(), 0, pm.SGD(RATE, learn="rate"))
    x = rows()
    torch.testing.assert_close(guide.propose(x), guide.guide.propose(x), rtol=0, atol=0)
    assert len(guide.learned) == 0


@pytest.mark.parametrize("adapt", ["guide", "both", "guide.guide.heads.*"])
@pytest.mark.parametrize("local", [False, True], ids=["store", "local"])
def test_meta_gradient(adapt, local, assert_meta_slope):
    with pyro.settings.context(module_local_params=local):
        model = Decoder().double()
        guide = semi(model, 2, pm.SGD(RATE, learn="layer"))
        support, query = rows(3), torch.randn(3, 5, DIM, dtype=F64)
        optim, found = pyro.optim.Adam({"lr": 1e-2}), []
        for vectorize in (False, True):
            options = {"inner": pm.SGD(0.01), "steps": 2, "adapt": adapt, "engine": pm.Engine(vectorize=vectorize)}
            meta = pm.MetaSVI(model, guide, optim, **options)
            torch.manual_seed(3)
            found.append(meta.loss_and_grads(support, query))
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
        assert_meta_slope(meta, support, query)
        names = dict(meta.named_parameters())
        assert {"model.linear.weight", "model.noise", "guide.learned.log_lr/z/loc"} <= names.keys()
        adapted = meta.adapt(support[0])
        assert Predictive(adapted.model, guide=adapted, num_samples=2)(query[0])["z"].shape == (2, 5, 1)


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize("local", [False, True], ids=["store", "local"])
def test_fast_weights_of_the_model_reach_the_refinement(local):
    """A step of plain gradient descent on all parameters, taken on the modules themselves, says the same."""
    with pyro.settings.context(module_local_params=local):
        model = Decoder().double()
        guide = semi(model, 2)
        support, query, elbo = rows(1), rows(1), TraceMeanField_ELBO()
        meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), inner=pm.SGD(0.02), steps=1, adapt="both")
        value = meta.evaluate_loss(support, query)
        leaves = [*guide.parameters(), *model.parameters()]
        grads = torch.autograd.grad(elbo.differentiable_loss(model, guide, support[0]), leaves)
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.data -= 0.02 * grad
        expected = elbo.differentiable_loss(model, guide, query[0]).item()
        assert value == pytest.approx(expected, rel=1e-12)


def two_latents(x):
    w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal((w + z)[:, None].expand(-1, DIM), 1.0).to_event(1), obs=x)


def test_a_latent_that_the_guide_lacks_is_refused():
    guide = SemiAmortizedGuide(AmortizedGuide(two_latents, encoder(), sites=["z"]), 2)
    with pytest.raises(ValueError, match="no site for 'w'"):
        guide(rows())


def test_sites_in_and_outside_of_plates_are_refined_together(assert_svi_slope):
    net = encoder()
    amortized = AmortizedGuide(two_latents, lambda x: {"w": net(x).mean(0), "z": net(x)})
    guide = SemiAmortizedGuide(amortized, 2, Momentum(RATE))
    assert_svi_slope(Trace_ELBO(), two_latents, guide, (rows(),), [guide, net])


def test_other_losses():
    model = Decoder().double()
    for loss in (Trace_ELBO(num_particles=2), RenyiELBO(alpha=0.0, num_particles=2)):
        assert torch.isfinite(guide_value(model, loss))


def guide_value(model, loss):
    return semi(model, 2, loss=loss)(rows())["z"].sum()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"guide": lambda x: x}, TypeError, "must be an AmortizedGuide, or have its propose"),
        ({"steps": -1}, ValueError, "steps must not be negative"),
        ({"steps": 1.5}, TypeError, "steps must be whole numbers"),
        ({"model": 3}, TypeError, "give model="),
        ({"loss": TraceGraph_ELBO()}, TypeError, "TraceGraph_ELBO is not one of"),
        ({"loss": "elbo"}, TypeError, "loss must be a Pyro ELBO or a function, got str"),
    ],
)
def test_bad_input(options, error, message):
    given = {"guide": AmortizedGuide(two_latents, encoder()), "steps": 2, **options}
    with pytest.raises(error, match=message):
        SemiAmortizedGuide(**given)


def test_it_refines_what_another_refined():
    model, x = Decoder().double(), rows()
    guide = SemiAmortizedGuide(semi(model), 2, pm.SGD(RATE))
    assert guide.model is model
    assert guide(x)["z"].shape == (4, 1)


def test_an_emptied_store_is_filled_as_in_the_first_step():
    decoder = nn.Linear(2, DIM).double()

    def model(x):
        pyro.module("decoder", decoder)
        noise = pyro.param("noise", torch.tensor(0.5, dtype=F64), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), noise).to_event(1), obs=x)

    guide, x = semi(model), rows()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.0}), TraceMeanField_ELBO())
    svi.step(x)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append((svi.step(x), sorted(pyro.get_param_store().keys())))
        pyro.clear_param_store()
    assert found[0] == found[1]
    assert "decoder$$$weight" in found[0][1]
