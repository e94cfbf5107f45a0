"""NaturalGradient on Gaussians that the guide computes from data: heads of encoders, and what multiplies by data."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from central import along, central_slope
from gaussian_guides import DIM, F64, INCLINED, UPRIGHT, bound, meta_svi, pin, posterior, regression
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, ComposedGuide, SetEncoderGuide
from pyrometa.inner import GradientOrder
from pyrometa.types import Data

ENGINES = {"loop": pm.Engine(vectorize=False), "vmap": pm.Engine(vectorize=True), "recorded": pm.Engine(record=True)}
POSITIVE = dist.constraints.softplus_positive
DATA = len(INCLINED)


def set_encoder(model, **options):
    rows = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 5), nn.Tanh()).double()
    return SetEncoderGuide(model, rows, **options)


def amortized(model, **options):
    return AmortizedGuide(model, nn.Sequential(nn.Linear(DATA, 5), nn.Tanh()).double(), **options)


GUIDES = {"set": set_encoder, "amortized": amortized}
FAMILIES = {"mean_field": UPRIGHT, "full_covariance": INCLINED}


def built(guide, family, rule, **options):
    design = FAMILIES[family]
    model = regression(design)
    return meta_svi(model, GUIDES[guide](model, family=family), rule, **options), design


def gaussian(guide, y, site="w"):
    """Mean and covariance of a site, read off its distribution."""
    nodes = pyro.poutine.trace(guide).get_trace(y).nodes
    fn = nodes[site if site in nodes and hasattr(nodes[site]["fn"], "base_dist") else f"_{site}_latent"]["fn"]
    normal = getattr(fn, "base_dist", fn)
    return normal.mean, getattr(normal, "covariance_matrix", normal.variance.diag_embed())


def assert_exact(meta, design, y):
    for one, guide in zip(y, meta.adapt_many(y), strict=True):
        with torch.no_grad():
            found = gaussian(guide, one)
        for value, expected in zip(found, posterior(design, one), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


RUNS = [(guide, family, "*heads*bias", "loop") for guide in GUIDES for family in FAMILIES]
RUNS += [("set", family, "*heads*", engine) for family in FAMILIES for engine in ("loop", "vmap")]
RUNS += [("amortized", "mean_field", "*heads*weight", "vmap"), ("set", "mean_field", "*heads*bias", "recorded")]


@pytest.mark.parametrize(("guide", "family", "adapt", "engine"), RUNS)
def test_one_step_of_rate_one_is_the_exact_posterior(guide, family, adapt, engine, monkeypatch):
    pin(monkeypatch)
    meta, design = built(guide, family, pm.NaturalGradient(1.0), adapt=adapt, engine=ENGINES[engine])
    assert_exact(meta, design, torch.randn(3, DATA, dtype=F64))
    assert bool(meta.recordings()) == (engine == "recorded")


@pytest.mark.parametrize("adapt", ["*heads*bias", "*heads*"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_step_is_the_least_of_the_fisher_matrix_of_the_parameters(family, adapt):
    """Against the Hessian of the divergence from itself, by automatic differentiation."""
    meta, _ = built("set", family, pm.NaturalGradient(1e-7), adapt=adapt)
    y = torch.randn(2, DATA, dtype=F64)
    problem = meta._problem(y, None, None, 1)[0]
    start = problem.start(GradientOrder.NONE)
    shapes = [value.shape for value in start.values()]
    here = torch.cat([value.flatten() for value in start.values()]).detach().requires_grad_()

    def at(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        with problem.program.using({n: p.view(s) for n, p, s in zip(start, parts, shapes, strict=True)}):
            return MultivariateNormal(*gaussian(meta.guide, y[0]))

    origin = MultivariateNormal(at(here).loc.detach(), at(here).covariance_matrix.detach())
    matrix = torch.autograd.functional.hessian(lambda flat: kl_divergence(origin, at(flat)), here)
    flat = matrix @ torch.randn(len(matrix), dtype=F64)  # what moves no number has no gradient
    grads = {n: p.view(s) for n, p, s in zip(start, flat.split([s.numel() for s in shapes]), shapes, strict=True)}
    moved, _ = problem.rule_on(Data((y[0],))).update(start, grads, None, {}, 0)
    step = torch.cat([(moved[name] - value).flatten() for name, value in start.items()]) / 1e-7
    torch.testing.assert_close(step, -torch.linalg.pinv(matrix, rtol=1e-9) @ flat, rtol=1e-5, atol=1e-5)


def labels(y):
    """A model that is not conjugate."""
    w = pyro.sample("w", dist.Normal(torch.zeros(DIM, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", DATA):
        pyro.sample("y", dist.Bernoulli(logits=(w * INCLINED).sum(-1)), obs=y)


def labelled(family, rule, **options):
    meta = meta_svi(labels, set_encoder(labels, family=family), rule, **{"steps": 2, "adapt": "*heads*", **options})
    return meta, torch.eye(2, DATA, dtype=F64), torch.ones(2, DATA, dtype=F64)


@pytest.mark.parametrize("learn", [None, "layer_step", "parameter"])
@pytest.mark.parametrize("family", FAMILIES)
def test_meta_gradients_against_central_differences(family, learn):
    """The encoder's own parameters learn as well, through the features that a step reads."""
    meta, support, query = labelled(family, pm.NaturalGradient(0.7, learn), engine=ENGINES["vmap"])

    def loss():
        torch.manual_seed(1)
        return meta.loss_and_grads(support, query)

    _, grads = loss()
    leaves = dict(meta.named_parameters())
    assert any(n.startswith("inner.log_lr.w.") or "_latent" in n for n in leaves) == (learn is not None)
    direction = {n: torch.randn_like(v) for n, v in leaves.items()}
    slope = central_slope(lambda: loss()[0].item(), leaves, direction)
    assert along(grads, direction) == pytest.approx(slope, rel=1e-6, abs=1e-7)
    assert all(grads[n].abs().max() > 0 for n in grads)


def test_a_recording_and_side_by_side_say_what_the_loop_says():
    found = []
    for engine in ENGINES.values():
        pyro.clear_param_store()
        torch.manual_seed(5)
        meta, support, query = labelled("mean_field", pm.NaturalGradient(0.7, "layer"), engine=engine, steps=1)
        found.append([meta.step(support, query) for _ in range(2)])
        assert len(meta.recordings()) == (engine.record is True)
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def ragged(y):
    w = pyro.sample("w", dist.LogNormal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(w.sum(-1, keepdim=True), 1.0), obs=y)


def test_tasks_of_different_sizes_and_sites_beneath_transforms():
    tasks, found = [torch.randn(n, dtype=F64) for n in (3, 5, 4)], []
    for engine in ("loop", "vmap"):
        pyro.clear_param_store()
        torch.manual_seed(3)
        meta = meta_svi(ragged, set_encoder(ragged), pm.NaturalGradient(0.5), adapt="*heads*", engine=ENGINES[engine])
        meta.init(tasks)
        torch.manual_seed(4)
        found.append(meta.evaluate(tasks, steps=(0, 1)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    assert (found[0][1] < found[0][0]).all()


def scaled(y):
    """A guide that multiplies by data, of which the factor is one for the first task."""
    factor = y[0].abs()
    scale = pyro.param("scale", torch.full((DIM,), 0.6, dtype=F64), constraint=POSITIVE)
    pyro.sample("w", dist.Normal(pyro.param("loc", torch.zeros(DIM, dtype=F64)) * factor, scale).to_event(1))


@pytest.mark.parametrize("whole", [False, True])
def test_a_factor_of_the_data_is_seen_where_it_is_one_for_the_first_task(whole, monkeypatch):
    pin(monkeypatch)
    y = torch.tensor([[1.0, 0.3, -0.2, 0.5], [3.0, 1.0, 0.4, -2.0], [-0.5, 0.0, 1.0, 1.0]], dtype=F64)
    rule = pm.NaturalGradient(1.0)
    if whole:  # whole numbers do not move, and the guide is taken at its word
        meta = meta_svi(lambda y: regression(UPRIGHT)(y.double()), scaled, rule)
        meta.init(y.round().long())
        assert bound(meta)._known.read is None
    else:
        meta = meta_svi(regression(UPRIGHT), scaled, rule)
        assert_exact(meta, UPRIGHT, y)
        assert set(bound(meta)._known.read.params) == {"guide.loc", "guide.scale"}


def two(y):
    """Two blocks of latents that do not hang together."""
    a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=F64), 2.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(DIM, dtype=F64), 2.0).to_event(1))
    with pyro.plate("data", DATA):
        pyro.sample("y", dist.Normal((w * UPRIGHT).sum(-1), 0.5), obs=y)
    pyro.sample("z", dist.Normal(a, 0.5), obs=y.sum())


def composed(model, **parts):
    alone = AutoNormal(pyro.poutine.block(model, hide=["w"]), init_scale=0.6)
    return ComposedGuide(alone=alone, **parts)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_a_composed_guide_is_read_part_by_part(engine, monkeypatch):
    pin(monkeypatch, DIM + 1)
    guide = composed(two, reads=set_encoder(two, sites=["w"]))
    options = {"adapt": ["*alone*", "*heads*"], "engine": ENGINES[engine]}
    meta = meta_svi(two, guide, pm.NaturalGradient(1.0), 2 * (DIM + 1), **options)
    y = torch.randn(2, DATA, dtype=F64)
    assert_exact(meta, UPRIGHT, y)
    for one, adapted in zip(y, meta.adapt_many(y), strict=True):
        mean = 4 * one.sum() / 4.25
        torch.testing.assert_close(gaussian_of_a(adapted, one), mean, rtol=1e-9, atol=1e-9)
    geometry = bound(meta)._known
    assert geometry.scales.keys() == {"guide.alone.scales.a"}
    assert set(geometry.read.sites) == {"w"}


def gaussian_of_a(guide, y):
    with torch.no_grad():
        return pyro.poutine.trace(guide).get_trace(y).nodes["a_unconstrained"]["fn"].mean


def test_an_encoder_that_reads_a_drawn_value_is_left_to_others():
    """Its mean is another one for each draw."""
    reader = AmortizedGuide(two, lambda y, a: torch.cat([y, a[..., None]]), sites=["w"], given=["a"])
    meta = pm.MetaSVI(two, composed(two, reads=reader), pyro.optim.Adam({"lr": 0.01}), inner=pm.NaturalGradient())
    with pytest.raises(ValueError, match=r"'guide.reads.heads.w.weight' is neither: 'w' comes .* in another way; give"):
        meta.init(torch.randn(2, DATA, dtype=F64))


def local(y):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(y), dtype=F64), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def one_scale(y):
    """The mean is computed from what adapts, the scale is not."""
    loc = pyro.param("loc", torch.zeros(DIM, dtype=F64)) + y.sum()
    pyro.sample("w", dist.Normal(loc, 0.5).to_event(1))


def bound_together(y):
    loc, scale = pyro.param("loc", torch.zeros((), dtype=F64)), pyro.param("scale", torch.zeros((), dtype=F64))
    pyro.sample("w", dist.Normal(loc + y[:DIM], (scale + y[:DIM]).exp()).to_event(1))


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (
            local,
            lambda m: AmortizedGuide(m, nn.Unflatten(0, (-1, 1))),
            r"'z' comes .* in another way, in a plate; give",
        ),
        (regression(UPRIGHT), set_encoder, r"'guide.amortized.encoder.encoder.1.weight' is neither: 'w' comes from"),
        (regression(UPRIGHT), lambda _: one_scale, r"'guide.loc' is neither: .* use inner=pm.Newton\(\)"),
        (regression(UPRIGHT), lambda _: bound_together, r"'guide.loc' is neither: .* use inner=pm.Newton\(\)"),
        (regression(UPRIGHT), lambda m: set_encoder(m, family="flow"), r"is neither: .* of kind \w+ that depends"),
    ],
    ids=["in a plate", "more than one layer", "a mean alone", "one number for several", "flow"],
)
def test_what_it_cannot_move_is_refused_by_name_with_the_cure(model, guide, message):
    adapt, rows = ("*heads*", 2) if model is local else ("guide", DATA)  # two rows a head could tell apart
    meta = pm.MetaSVI(
        model, guide(model), pyro.optim.Adam({"lr": 0.01}), inner=pm.NaturalGradient(), steps=1, adapt=adapt
    )
    with pytest.raises(ValueError, match=message):
        meta.init(torch.randn(2, rows, dtype=F64))


def test_more_layers_than_the_last_move_by_the_other_rule(monkeypatch):
    pin(monkeypatch)
    rule = pm.NaturalGradient(1.0, others=pm.SGD(1e-3))
    meta, _ = built("amortized", "mean_field", rule, adapt="guide")
    y = torch.randn(3, DATA, dtype=F64)
    meta.step(y)
    geometry = bound(meta)._known
    assert geometry.read.params == ("guide.heads.w.weight", "guide.heads.w.bias")
    assert geometry.others.keys() == {"guide.encoder.0.weight", "guide.encoder.0.bias"}


def test_rates_are_of_the_sites_numbers_and_what_is_frozen_stays():
    meta, _ = built("set", "mean_field", pm.NaturalGradient({"w.loc": 0.5, "*": 0.9}, "layer"), adapt="*heads*")
    y = torch.randn(3, DATA, dtype=F64)
    meta.init(y)
    leaves = dict(meta.named_parameters())
    torch.testing.assert_close(leaves["inner.log_lr.w.loc"].exp().item(), 0.5)
    torch.testing.assert_close(leaves["inner.log_lr.w.scale"].exp().item(), 0.9)
    head = "guide.amortized.heads.w"
    assert bound(meta)._known.without({f"{head}.weight"}).read.params == (f"{head}.bias",)
    assert bound(meta)._known.without({f"{head}.weight", f"{head}.bias"}).read is None


def test_a_task_whose_features_are_all_zero_stays_where_it_is():
    model = regression(UPRIGHT)
    guide = AmortizedGuide(model, nn.Sequential(nn.Linear(DATA, 5), nn.ReLU()).double())
    with torch.no_grad():
        guide.encoder[0].weight.copy_(torch.ones(5, DATA))
        guide.encoder[0].bias.zero_()
    meta = meta_svi(model, guide, pm.NaturalGradient(1.0), adapt="*heads*weight")
    y = torch.ones(2, DATA, dtype=F64)
    meta.init(y)
    before = dict(meta.named_parameters())["guide.heads.w.weight"]
    torch.testing.assert_close(meta.adapt(-y[0]).adapted.by_name()["guide.heads.w.weight"], before.detach())


def test_a_copy_and_a_pickle_go_on_as_the_original():
    meta, _ = built("set", "mean_field", pm.NaturalGradient(0.5, "layer"), adapt="*heads*", steps=2)
    y = torch.randn(2, DATA, dtype=F64)
    meta.step(y)
    losses = []
    for each in (meta, copy.deepcopy(meta)):
        torch.manual_seed(2)
        losses.append(each.step(y))
    assert losses[0] == losses[1]
    again = pickle.loads(pickle.dumps(bound(meta)))
    assert again.reads.params == bound(meta).reads.params


def test_it_has_to_be_told_what_the_guide_shows():
    meta, _ = built("set", "mean_field", pm.NaturalGradient(0.5), adapt="*heads*")
    meta.init(torch.randn(2, DATA, dtype=F64))
    params = {n: v for n, v in meta.named_parameters() if "heads" in n}
    with pytest.raises(ValueError, match="has seen no data yet: give it to MetaSVI"):
        bound(meta).update(params, params, None, {}, 0)
