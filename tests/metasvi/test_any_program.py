"""Any Pyro program: the meta-gradient is exact, constraints hold, and known posteriors come out."""

import itertools

import any_programs
import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from any_programs import F64, KINDS, double
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.poutine.util import prune_subsample_sites

import pyrometa as pm

EPS = 1e-6


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param()


def meta_svi(kind, **options):
    options = {"inner": pm.SGD(1e-3, learn="layer"), "steps": 2, "adapt": kind.adapt, **options}
    return pm.MetaSVI(kind.model, kind.guide, pyro.optim.Adam({"lr": 1e-2}), kind.loss, **options)


def gradients(meta, kind):
    torch.manual_seed(1)
    return meta.loss_and_grads(kind.support, kind.query)


def test_the_meta_gradient_against_finite_differences(kind):
    """In a random direction for each leaf, so that none can hide behind another."""
    meta = meta_svi(kind, engine=pm.Engine(vectorize=True))
    loss, grads = gradients(meta, kind)
    assert loss.dtype == F64
    for name, leaf in meta.named_parameters():
        direction = torch.randn(leaf.shape, dtype=F64, generator=torch.Generator().manual_seed(2))
        ends = []
        for shift in (EPS, -2 * EPS, EPS):
            with torch.no_grad():
                leaf += shift * direction
            ends.append(gradients(meta, kind)[0])
        slope = (ends[0] - ends[1]) / (2 * EPS)
        torch.testing.assert_close((grads[name] * direction).sum(), slope, rtol=2e-6, atol=2e-7, msg=f"{name}: {slope}")
        assert grads[name].abs().sum() > 0, name


def test_one_by_one_gives_the_same(kind):
    meta = meta_svi(kind)
    loss, grads = gradients(meta, kind)
    alone = meta_svi(kind, engine=pm.Engine(vectorize=False))
    expected, expected_grads = gradients(alone, kind)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)
    meta_cases.assert_equal(grads, expected_grads, rtol=1e-8, atol=1e-10)


def test_constraints_hold_under_adaptation(kind):
    """Whatever the steps: each constrained parameter and value stays in its support, and prediction runs."""
    meta = meta_svi(kind, inner=pm.Adam(0.3), steps=20)
    first = meta_cases.as_args(meta_cases.task(kind.support, 0))
    adapted = meta.adapt(first)
    guide = poutine.trace(adapted).get_trace(*first)
    model = poutine.trace(poutine.replay(adapted.model, trace=guide)).get_trace(*first)
    params = [site for site in guide.nodes.values() if site["type"] == "param"]
    for site in params:
        constraint = site["kwargs"].get("constraint")
        assert constraint is None or constraint.check(site["value"]).all(), site["name"]
    for name in set(prune_subsample_sites(model).stochastic_nodes) & set(guide.nodes):
        assert model.nodes[name]["fn"].support.check(guide.nodes[name]["value"]).all(), name
    moved = meta_cases.values(meta)
    for name, value in adapted.adapted.by_name().items():
        assert not torch.equal(value, moved[name]), name
    drawn = Predictive(poutine.uncondition(adapted.model), guide=adapted, num_samples=3)(*first)
    assert all(value.isfinite().all() for value in drawn.values())


def test_gaps_do_not_count():
    kind = any_programs.missing()
    loss, grads = gradients(meta_svi(kind), kind)
    for x, seen in (kind.support, kind.query):
        x[~seen] = 1e3
    again, again_grads = gradients(meta_svi(kind), kind)
    assert torch.equal(loss, again)
    meta_cases.assert_equal(grads, again_grads, rtol=0, atol=0)


def test_a_part_that_is_blocked_does_not_adapt():
    kind = any_programs.hierarchical()
    meta = meta_svi(kind, adapt="guide.locs.*")
    adapted = meta.adapt(meta_cases.task(kind.support, 0))
    assert set(adapted.adapted.names) == {"guide.locs.mean", "guide.locs.spread", "guide.locs.offset"}


# Posteriors that can be written down


WEIGHTS, LOCS = double(0.3, 0.7), double(-1.0, 1.5)


@config_enumerate
def coins_model(x):
    """Which of two components each row is of: all that is unknown."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(WEIGHTS))
        pyro.sample("x", dist.Normal(LOCS[k], 1.0), obs=x)


@config_enumerate
def row_guide(x):
    with pyro.plate("data", len(x)):
        logits = pyro.param("logits", x.new_zeros(len(x), 2))
        pyro.sample("k", dist.Categorical(logits=logits))


def test_assignments_adapt_to_bayes_rule():
    """The ELBO's optimum over free probabilities is the posterior, its value the evidence."""
    x = 0.5 * torch.randn(2, 5, dtype=F64)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    meta = pm.MetaSVI(coins_model, row_guide, pyro.optim.Adam({"lr": 0.1}), loss, pm.SGD(3.0), steps=200)
    joint = WEIGHTS.log() + dist.Normal(LOCS, 1.0).log_prob(x[..., None])
    for guide, rows in zip(meta.adapt_many(x), joint, strict=True):
        (logits,) = guide.adapted.parameters()
        torch.testing.assert_close(logits.detach().softmax(-1), rows.softmax(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(meta.evaluate(x, steps=(200,))[0], -joint.logsumexp(-1).sum(-1), rtol=0, atol=1e-6)


def paths(x, transition, locs):
    """Log joint density of a sequence with every path of states, by brute force."""
    found = {}
    for path in itertools.product(range(2), repeat=len(x)):
        log, k = x.new_zeros(()), 0
        for value, state in zip(x, path, strict=True):
            log, k = log + transition[k, state].log() + dist.Normal(locs[state], 0.7).log_prob(value), state
        found[path] = log
    return found


def test_a_hidden_markov_model_after_adaptation():
    """Loss and most likely states against all paths, on the adapted transitions and means."""
    kind = any_programs.hidden_markov()
    meta = meta_svi(kind, inner=pm.SGD(0.02), steps=10)
    support, query = kind.support[0], kind.query[0]
    adapted = meta.adapt(support)
    values = {name: value.detach() for name, value in adapted(query).items()}
    prior = dist.Dirichlet(torch.ones(2, 2, dtype=F64)).log_prob(values["transition"]).sum()
    prior = prior + dist.Normal(double(0.0), 3.0).log_prob(values["locs"]).sum()
    by_path = [paths(x, values["transition"], values["locs"]) for x in query]
    evidence = sum(torch.stack(list(logs.values())).logsumexp(0) for logs in by_path)
    loss = meta.evaluate(kind.support[:1], kind.query[:1], steps=(10,))[0, 0]
    torch.testing.assert_close(loss, -(evidence + prior), rtol=1e-11, atol=1e-11)

    replayed = poutine.replay(kind.model, trace=poutine.trace(adapted).get_trace(query))
    trace = poutine.trace(infer_discrete(replayed, first_available_dim=-2, temperature=0)).get_trace(query)
    states = torch.stack([trace.nodes[f"k_{t}"]["value"] for t in range(4)], -1)
    assert [tuple(row) for row in states.tolist()] == [max(logs, key=logs.get) for logs in by_path]


def test_posterior_samples_of_the_states():
    """infer_discrete at temperature 1: the share of each path is its probability, within five standard errors."""
    kind = any_programs.hidden_markov()
    adapted = meta_svi(kind).adapt(kind.support[0])
    x = kind.query[0][:1, :2]
    values = {name: value.detach() for name, value in adapted(x).items()}
    repeated = x.expand(4000, 2)
    replayed = poutine.replay(kind.model, trace=poutine.trace(adapted).get_trace(repeated))
    trace = poutine.trace(infer_discrete(replayed, first_available_dim=-2)).get_trace(repeated)
    drawn = torch.stack([trace.nodes[f"k_{t}"]["value"] for t in range(2)], -1)
    logs = paths(x[0], values["transition"], values["locs"])
    probabilities = torch.stack(list(logs.values())).softmax(0)
    for path, p in zip(logs, probabilities, strict=True):
        share = (drawn == torch.tensor(path)).all(-1).double().mean()
        assert abs(share - p) <= 5 * (p * (1 - p) / 4000).sqrt(), path


def test_gamma_poisson():
    """A rate's conjugate posterior; a log-normal guide, fitted to convergence, has its moments."""
    counts = torch.poisson(torch.full((2, 30), 6.0, dtype=F64))

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(double(2.0)[0], 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        scale = pyro.param("scale", double(0.3)[0], constraint=dist.constraints.positive)
        pyro.sample("rate", dist.LogNormal(pyro.param("loc", double(1.0)[0]), scale))

    elbo = Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), elbo, pm.Adam(0.02), steps=200)
    for adapted, x in zip(meta.adapt_many(counts), counts, strict=True):
        exact = dist.Gamma(2.0 + x.sum(), 0.5 + len(x))
        fitted = dist.LogNormal(pyro_value(adapted, "loc"), pyro_value(adapted, "scale"))
        torch.testing.assert_close(fitted.mean, exact.mean, rtol=0.01, atol=0)
        torch.testing.assert_close(fitted.stddev, exact.stddev, rtol=0.1, atol=0)


def pyro_value(adapted, name):
    return poutine.trace(adapted).get_trace(torch.zeros(1, dtype=F64)).nodes[name]["value"].detach()
