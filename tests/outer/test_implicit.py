"""iMAML against the closed form on a quadratic ELBO."""

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrometa as pm
from pyrometa.outer import displacement, implicit, unrolled

pytestmark = pytest.mark.gpu

DIM, SCALE, PRIOR, NOISE = 3, 0.3, 2.0, 0.5
"""Of the mean, the guide's and the prior's standard deviation, and the data's."""

STRENGTH = 1.5
PRECISION = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64) / NOISE**2
"""Of each dimension of a datum: the Hessian has a different entry for each, so that one iteration is not enough."""


def model(x):
    prior = pyro.param("prior", torch.full((DIM,), 0.2, dtype=torch.float64))
    loc = pyro.sample("loc", dist.Normal(prior, PRIOR).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, PRECISION.rsqrt()).to_event(1), obs=x)


def guide(x):
    mean = pyro.param("mean", torch.full((DIM,), -0.1, dtype=torch.float64))
    pyro.sample("loc", dist.Normal(mean, SCALE).to_event(1))


def data():
    return torch.randn(4, 5, DIM, dtype=torch.float64), torch.randn(4, 6, DIM, dtype=torch.float64)


def meta_svi(meta_gradient, steps=40, **options):
    options = {"inner": pm.ProximalSGD(0.03, STRENGTH), "meta_gradient": meta_gradient, **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), steps=steps, **options)


def closed_form(meta, support, query):
    """The minimum of the proximal loss and the meta-gradient there, the noise being that of a seed."""
    mean, prior = (dict(meta.named_parameters())[n].detach() for n in ("guide.mean", "model.prior"))
    torch.manual_seed(1)
    inner = torch.empty(4, 1, DIM, dtype=torch.float64).normal_()[:, 0] * SCALE
    last = torch.empty(4, 1, DIM, dtype=torch.float64).normal_()[:, 0] * SCALE
    hessian = 1 / PRIOR**2 + support.shape[1] * PRECISION
    pull = prior / PRIOR**2 + PRECISION * (support - inner[:, None]).sum(1)
    found = (pull + STRENGTH * mean) / (hessian + STRENGTH)
    slope = (found - prior) / PRIOR**2 + PRECISION * (found[:, None] + last[:, None] - query).sum(1)
    solution = slope / (hessian + STRENGTH)
    theta = -(found - prior) / PRIOR**2 + solution / PRIOR**2  # d2 loss / d prior d mean is -1 / PRIOR ** 2
    return {"guide.mean": (STRENGTH * solution).mean(0), "model.prior": theta.mean(0)}


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    "meta_gradient", [pm.Implicit(DIM), pm.Implicit(60, "neumann"), pm.Implicit(10 * DIM)], ids=repr
)
def test_closed_form(meta_gradient, vectorize):
    meta, (support, query) = meta_svi(meta_gradient, engine=pm.Engine(vectorize=vectorize)), data()
    meta.init(support)
    torch.manual_seed(1)
    _, grads = meta.loss_and_grads(support, query)
    expected = closed_form(meta, support, query)
    assert grads.keys() == expected.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-9, atol=1e-10)


def test_too_few_iterations_are_not_enough():
    """So that the test above can fail; and more are nearer."""
    (support, query), errors = data(), []
    for iterations in (1, 2):
        meta = meta_svi(pm.Implicit(iterations))
        meta.init(support)
        torch.manual_seed(1)
        _, grads = meta.loss_and_grads(support, query)
        expected = closed_form(meta, support, query)
        errors.append((grads["guide.mean"] - expected["guide.mean"]).norm() / expected["guide.mean"].norm())
    assert errors[0] > 2 * errors[1] > 1e-4


def test_a_full_cross_term_and_several_rates():
    """The noise multiplies the mean's error, so that all second derivatives count: against finite differences."""

    def model(x):
        noise = pyro.param("noise", torch.tensor(0.8, dtype=torch.float64), constraint=dist.constraints.positive)
        loc = pyro.sample("loc", dist.Normal(torch.zeros(DIM, dtype=torch.float64), PRIOR).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc.tanh(), noise).to_event(1), obs=x)

    def guide(x):
        mean = pyro.param("mean", torch.full((DIM,), 0.3, dtype=torch.float64))
        scale = pyro.param("scale", torch.full((DIM,), 0.5, dtype=torch.float64), constraint=dist.constraints.positive)
        pyro.sample("loc", dist.Normal(mean, scale).to_event(1))

    support, query = data()
    for solver, iterations in (("cg", 8), ("neumann", 60)):
        meta = pm.imaml(
            model,
            guide,
            pyro.optim.Adam({"lr": 1e-2}),
            steps=40,
            lr={"guide.mean": 0.015, "*": 0.01},
            strength=40.0,
            iterations=iterations,
            solver=solver,
        )
        torch.manual_seed(1)
        _, grads = meta.loss_and_grads(support, query)
        for name, leaf in meta.named_parameters():
            direction, ends = torch.randn_like(leaf), []
            for move in (1e-5, -2e-5):
                leaf.data.add_(move * direction)
                torch.manual_seed(1)
                ends.append(meta.evaluate(support, query, (40,)).mean())
            leaf.data.add_(1e-5 * direction)
            slope = (ends[0] - ends[1]) / 2e-5
            torch.testing.assert_close((grads[name] * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_all_inner_steps_and_the_products_see_one_draw():
    seen = []

    def guide(x):
        pyro.param("mean", torch.ones(2, dtype=torch.float64))

    def loss(model, guide, x):
        noise = torch.randn(2, dtype=torch.float64)
        seen.append(noise.clone())
        mean = pyro.param("mean")
        return (mean**4 + (mean - x - noise) ** 2).sum()

    meta = pm.MetaSVI(
        lambda x: None,
        guide,
        pyro.optim.Adam({"lr": 1e-2}),
        loss,
        pm.ProximalSGD(0.01),
        steps=6,
        meta_gradient=pm.Implicit(3),
        engine=pm.Engine(vectorize=False),
    )
    x = torch.zeros(2, 2, dtype=torch.float64)
    meta.init(x)
    meta.loss_and_grads(x)
    seen.clear()
    meta.loss_and_grads(x)
    first, second = torch.stack(seen).view(2, 8, 2)  # six steps, the score, the loss at the end, for each task
    for draws in (first, second):
        steps, score = draws[[0, 1, 2, 3, 4, 5, 7]], draws[6]
        assert (steps == steps[0]).all()
        assert (score != steps[0]).all()
    assert (first[0] != second[0]).all()


def graph_size(tensors):
    """Number of nodes of the graph that some tensors hang on."""
    seen, nodes = set(), [t.grad_fn for t in tensors if t.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes += [parent for parent, _ in node.next_functions if parent is not None]
    return len(seen)


@pytest.mark.parametrize("inner", [pm.ProximalSGD(0.03, STRENGTH), pm.Newton()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("vectorize", [True, False])
def test_no_step_leaves_a_graph_behind(monkeypatch, vectorize, inner):
    """What the inner loop holds for the meta-gradient does not grow with its steps; in second order it does."""
    sizes, (support, query) = {}, data()

    def watched(run, steps):
        for point in adapt(run, steps):
            yield point
        sizes.setdefault((type(run).__name__, steps), graph_size(run.fast_weights(point).values()))

    adapt = implicit.adapt
    monkeypatch.setattr(implicit, "adapt", watched)
    monkeypatch.setattr(displacement, "adapt", watched)
    monkeypatch.setattr(unrolled, "adapt", watched)
    for meta_gradient, grows in ((pm.Implicit(), False), (pm.Displacement(), False), (pm.Unrolled(), True)):
        sizes.clear()
        for steps in (2, 6):
            meta_svi(meta_gradient, steps, inner=inner, engine=pm.Engine(vectorize=vectorize)).loss_and_grads(
                support, query
            )
        few, many = sizes.values()
        assert (many > few) == grows


PEAK = """
import resource, sys, pyro, torch, pyrometa as pm
from torch import nn
import pyro.distributions as dist

class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(400, 600), nn.Tanh(), nn.Linear(600, 2))
    def forward(self, x):
        with pyro.plate("data", len(x)):
            out = self.net(x)
            pyro.sample("z", dist.Normal(out[:, :1], out[:, 1:].exp()).to_event(1))

def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.expand(-1, 400), 1.0).to_event(1), obs=x)

torch.set_num_threads(1)
meta = pm.imaml(model, Guide(), pyro.optim.Adam({"lr": 1e-3}), steps=int(sys.argv[1]), lr=1e-5)
meta.loss_and_grads(torch.randn(8, 5, 400))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat_in_the_number_of_steps():
    """Peak resident memory at 5 and 50 steps, of fast weights of 8 MB a step."""
    peaks = [int(subprocess.check_output([sys.executable, "-c", PEAK, steps], text=True)) for steps in ("5", "50")]
    assert peaks[1] < peaks[0] + 40_000  # kB; 45 steps of fast weights alone are 350,000


def test_refusals():
    support, _ = data()
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), inner=pm.SGD(0.1), meta_gradient=pm.Implicit())
    with pytest.raises(ValueError, match=r"SGD has none: use inner=ProximalSGD\(lr, strength\)"):
        meta.init(support)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        pm.Implicit(0)
    with pytest.raises(TypeError, match=r"iterations must be a whole number, got 2\.5"):
        pm.Implicit(2.5)
    with pytest.raises(ValueError, match="solver must be one of 'cg', 'neumann', got 'lu'"):
        pm.Implicit(solver="lu")
