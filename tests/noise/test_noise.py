"""Noise that is drawn ahead has the right distribution, and a task's numbers depend on nothing else."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from meta_cases import meta_svi
from programs import modules, rows
from pyro.infer import Trace_ELBO

import pyrometa as pm
from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.replay import RecordNoise, ReplayNoise

N = 20_000
P = torch.tensor(0.3)

AHEAD = {
    "Normal": dist.Normal(1.0, 2.0),
    "LogNormal": dist.LogNormal(0.2, 0.4),
    "HalfNormal": dist.HalfNormal(1.5),
    "Uniform": dist.Uniform(-1.0, 3.0),
    "Laplace": dist.Laplace(0.5, 2.0),
    "Exponential": dist.Exponential(2.5),
    "Gumbel": dist.Gumbel(0.3, 1.2),
    "Weibull": dist.Weibull(1.5, 2.0),
    "Pareto": dist.Pareto(1.0, 5.0),
    "Kumaraswamy": dist.Kumaraswamy(2.0, 3.0),
    "Bernoulli": dist.Bernoulli(P),
    "Geometric": dist.Geometric(P),
    "ContinuousBernoulli": dist.ContinuousBernoulli(P),
    "MultivariateNormal": dist.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.4], [0.4, 2.0]])),
    "LowRankMultivariateNormal": dist.LowRankMultivariateNormal(torch.ones(3), torch.ones(3, 1), torch.ones(3)),
    "OneHotCategorical": dist.OneHotCategorical(torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0])),
    "Multinomial": dist.Multinomial(4, torch.tensor([0.2, 0.5, 0.3])),
    "MixtureSameFamily": dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.2, 0.8])), dist.Normal(torch.tensor([-1.0, 2.0]), 1.0)
    ),
    "Gamma": dist.Gamma(2.0, 3.0),
    "Beta": dist.Beta(2.0, 3.0),
    "Poisson": dist.Poisson(4.0),
    "StudentT": dist.StudentT(8.0, 0.5, 2.0),
    "Dirichlet": dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "Binomial": dist.Binomial(7, P),
    "NegativeBinomial": dist.NegativeBinomial(4.0, P),
}
STREAMED = {
    "Gamma": (lambda: torch._standard_gamma(torch.tensor(2.0)), 2.0, 2.0),
    "Poisson": (lambda: torch.poisson(torch.tensor(4.0)), 4.0, 4.0),
}
FUNCTIONS = {
    "randn": (lambda: torch.randn(N), 0.0, 1.0),
    "randn of a numpy size": (lambda: torch.randn(np.int64(N)), 0.0, 1.0),
    "randn of a list": (lambda: torch.randn([N // 2, 2], dtype=torch.float64), 0.0, 1.0),
    "rand": (lambda: torch.rand(size=(N,)), 0.5, 1 / 12),
    "randn_like": (lambda: torch.randn_like(torch.empty(N)), 0.0, 1.0),
    "rand_like by name": (lambda: torch.rand_like(input=torch.empty(N)), 0.5, 1 / 12),
    "normal": (lambda: torch.normal(torch.ones(N), 2 * torch.ones(N)), 1.0, 4.0),
    "normal of numbers": (lambda: torch.normal(1.0, 2.0, size=(N,)), 1.0, 4.0),
    "normal of a mean": (lambda: torch.normal(torch.ones(N), 2.0), 1.0, 4.0),
    "normal of a scale": (lambda: torch.normal(1.0, 2 * torch.ones(N)), 1.0, 4.0),
    "normal by name": (lambda: torch.normal(mean=torch.ones(N), std=2 * torch.ones(N)), 1.0, 4.0),
    "bernoulli": (lambda: torch.bernoulli(torch.full((N,), 0.3)), 0.3, 0.21),
    "bernoulli of a number": (lambda: torch.bernoulli(torch.empty(N), 0.3), 0.3, 0.21),
    "bernoulli of itself": (lambda: torch.full((N,), 0.3).bernoulli(), 0.3, 0.21),
    "normal_": (lambda: torch.empty(N).normal_(1.0, std=2.0), 1.0, 4.0),
    "uniform_": (lambda: torch.empty(N).uniform_(1.0, 3.0), 2.0, 4 / 12),
    "exponential_": (lambda: torch.empty(N).exponential_(lambd=2.0), 0.5, 0.25),
    "log_normal_": (
        lambda: torch.empty(N).log_normal_(0.0, 0.5),
        math.exp(0.125),
        (math.exp(0.25) - 1) * math.exp(0.25),
    ),
    "geometric_": (lambda: torch.empty(N).geometric_(0.4), 2.5, 0.6 / 0.16),
    "bernoulli_": (lambda: torch.empty(N).bernoulli_(0.3), 0.3, 0.21),
    "bernoulli_ of a tensor": (lambda: torch.empty(N).bernoulli_(torch.full((N,), 0.3)), 0.3, 0.21),
    "bernoulli_ of booleans": (lambda: torch.empty(N, dtype=torch.bool).bernoulli_(0.3), 0.3, 0.21),
    "randint": (lambda: torch.randint(5, (N,)), 2.0, 2.0),
    "randint by name": (lambda: torch.randint(low=2, high=7, size=(N,)), 4.0, 2.0),
    "randint from a limit": (lambda: torch.randint(2, 7, (N,), dtype=torch.int32), 4.0, 2.0),
    "randint_like": (lambda: torch.randint_like(torch.empty(N), 2, 7), 4.0, 2.0),
    "random_": (lambda: torch.empty(N).random_(2, 7), 4.0, 2.0),
    "random_ below": (lambda: torch.empty(N, dtype=torch.int64).random_(to=5), 2.0, 2.0),
    "random_ of all": (lambda: torch.empty(N, dtype=torch.uint8).random_(), 127.5, (2**16 - 1) / 12),
    "gumbel_softmax": (lambda: F.gumbel_softmax(torch.zeros(N, 5), hard=True)[:, 0], 0.2, 0.16),
    "rrelu": (lambda: F.rrelu(-torch.ones(N), 0.2, 0.6, training=True), -0.4, 0.16 / 12),
    "native_dropout": (lambda: torch.native_dropout(torch.ones(N), 0.2, True)[0], 1.0, 0.25),
    "mask of native_dropout": (lambda: torch.native_dropout(torch.ones(N), 0.2, None)[1], 0.8, 0.16),
}


def replayed(draw):
    """The same noise twice, under two states of the global generator; and whether all came from it."""
    with RecordNoise() as recorder:
        draw()
    (noise,) = draw_noise([recorder.tape], [[0]], 1)[0]
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with ReplayNoise([block[0] for block in noise]):
            values.append(draw())
    return values[0], torch.equal(*values)


def assert_moments(value, mean, variance):
    """Within five standard errors: of a hundred comparisons, one in 10,000 runs fails by chance."""
    value, flat = value.double(), value.numel() // N
    value = value.reshape(N, flat)
    mean, variance = (torch.as_tensor(x).double().reshape(-1) for x in (mean, variance))
    assert ((value.mean(0) - mean).abs() <= 5 * (variance / N).sqrt()).all()
    squares = (value - mean) ** 2
    assert ((squares.mean(0) - variance).abs() <= 5 * squares.std(0) / math.sqrt(N)).all()


@pytest.mark.parametrize("name", AHEAD)
def test_distributions_drawn_ahead(name):
    value, ahead = replayed(lambda: AHEAD[name].sample((N,)))
    assert ahead
    assert AHEAD[name].support.check(value).all()
    assert_moments(value, AHEAD[name].mean, AHEAD[name].variance)


@pytest.mark.parametrize("name", STREAMED)
def test_streams_of_many_tasks(name):
    """Over the seeds of tasks side by side, each draws what its own stream gives, and all together the distribution."""
    draw, mean, variance = STREAMED[name]
    with RecordNoise() as recorder:
        draw()
    ((seeds,),) = draw_noise([recorder.tape], [range(N)], 1)[0]

    def one(seed):
        with BatchedNoise([seed]):
            return draw()

    together = torch.vmap(one)(seeds)
    assert_moments(together, mean, variance)
    for i in (0, 1, N - 1):
        with ReplayNoise([seeds[i]]):
            assert draw() == together[i]


@pytest.mark.parametrize("name", ["Cauchy", "HalfCauchy"])
def test_heavy_tails(name):
    given = dist.Cauchy(0.5, 2.0) if name == "Cauchy" else dist.HalfCauchy(2.0)
    value, ahead = replayed(lambda: given.sample((N,)))
    assert ahead
    for q in (0.25, 0.5, 0.75):
        below = (given.cdf(value) < q).double().mean()
        assert abs(below - q) < 5 * math.sqrt(q * (1 - q) / N)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_functions(name):
    draw, mean, variance = FUNCTIONS[name]
    value, ahead = replayed(draw)
    assert ahead
    assert value.dtype == draw().dtype
    assert_moments(value.reshape(-1), mean, variance)


PAIRS = [(i, j) for i in range(3) for j in range(3) if i != j]


def assert_frequencies(drawn, probabilities):
    """Pairs of indices, each within five standard errors."""
    for pair, p in zip(PAIRS, probabilities, strict=True):
        found = (drawn == torch.tensor(pair)).all(-1).double().mean()
        assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / len(drawn))


def test_choices_without_replacement():
    weights = torch.tensor([1.0, 2.0, 5.0])
    for draw in (torch.multinomial, torch.Tensor.multinomial):
        drawn, ahead = replayed(lambda draw=draw: draw(weights.expand(N, 3), 2))
        assert ahead
        assert_frequencies(drawn, [weights[i] / 8 * weights[j] / (8 - weights[i]) for i, j in PAIRS])


def test_permutations():
    drawn, ahead = replayed(lambda: torch.stack([torch.randperm(3) for _ in range(2_000)]))
    assert ahead
    assert drawn.dtype == torch.int64
    assert_frequencies(drawn[:, :2], [1 / 6] * 6)


def test_what_has_no_probability_is_never_chosen():
    ends = torch.tensor([0.0, 0.5, 1.0 - 2**-24])
    weights = torch.tensor([0.0, 0.1, 0.0, 0.2, 0.0])
    with ReplayNoise([ends, ends.expand(2, 3), ends]):
        assert torch.multinomial(weights, 3, replacement=True).tolist() == [1, 3, 3]
        assert torch.multinomial(weights.expand(2, 5), 3, replacement=True).tolist() == [[1, 3, 3]] * 2
        assert torch.multinomial(weights * torch.nan, 3, replacement=True).max() < 5


def test_gradients_of_replayed_draws():
    loc, scale = torch.tensor(0.3, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    noise = torch.randn(5)
    with ReplayNoise([noise]):
        value = dist.Normal(loc, scale).rsample((5,))
    value.sum().backward()
    torch.testing.assert_close(loc.grad, torch.tensor(5.0))
    torch.testing.assert_close(scale.grad, noise.sum())
    assert torch.equal(noise, noise.detach())


def test_replay_leaves_the_noise_alone():
    noise = torch.randn(4)
    kept = noise.clone()
    with ReplayNoise([noise]):
        torch.randn(4).mul_(2.0)
    with ReplayNoise([noise]):
        torch.empty(4).normal_().add_(1.0)
    assert torch.equal(noise, kept)


def test_ragged_noise_is_the_leading_block():
    def tape(n):
        with RecordNoise() as recorder:
            torch.randn(n, 2)
            torch.rand(n)
        return recorder.tape

    small, large = tape(3), tape(5)
    torch.manual_seed(1)
    ragged = draw_noise([small, large], [[1], [0]], 4)
    torch.manual_seed(1)
    (whole,) = draw_noise([large], [[0, 1]], 4)
    assert len(whole) == 4
    for step, together in enumerate(whole):
        assert [tuple(draw.shape) for draw in ragged[0][step]] == [(1, 3, 2), (1, 3)]
        for first, second, both in zip(ragged[1][step], ragged[0][step], together, strict=True):
            assert torch.equal(first[0], both[0])
            assert torch.equal(second[0], both[1, :3])
            assert not torch.equal(both[0], both[1])
    assert not torch.equal(whole[0][0], whole[1][0])


def seeded(use, seed=4):
    torch.manual_seed(seed)
    return use()


def test_steps_in_between_change_nothing(module_local_params):
    meta, x, q = meta_svi(modules(), steps=5), rows(), rows()
    few = seeded(lambda: meta.evaluate(x, q, steps=(0, 5)))
    many = seeded(lambda: meta.evaluate(x, q, steps=(5, 2, 0, 1)))
    torch.testing.assert_close(few, many[[2, 0]], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seeded(lambda: meta.evaluate(x, q))[[0, 5]], few, rtol=1e-12, atol=1e-12)
    loss = seeded(lambda: meta.loss_and_grads(x, q))[0]
    torch.testing.assert_close(few[1].mean(), loss, rtol=1e-12, atol=1e-12)
    assert seeded(lambda: meta.evaluate_loss(x, q)) == pytest.approx(loss.item(), rel=1e-12)
    assert seeded(lambda: meta.step(x, q)) == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_task_does_not_see_the_others(ragged):
    meta = meta_svi(modules())
    tasks = [torch.randn(n, 2, dtype=torch.float64) for n in ((3, 6, 4) if ragged else (5, 5, 5))]
    others = [tasks[0], torch.randn_like(tasks[1]), tasks[2]]
    first, second = (seeded(lambda t=t: meta.evaluate(t, t)) for t in (tasks, others))
    torch.testing.assert_close(first[:, [0, 2]], second[:, [0, 2]], rtol=1e-12, atol=1e-12)
    assert not torch.equal(first[:, 1], second[:, 1])
    guides = [seeded(lambda t=t: meta.adapt_many(t)) for t in (tasks, others)]
    for ours, theirs in zip(guides[0][2].parameters(), guides[1][2].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_list_is_its_stack():
    meta, x, q = meta_svi(modules()), rows(), rows()
    stacked = seeded(lambda: meta.loss_and_grads(x, q))
    listed = seeded(lambda: meta.loss_and_grads(list(x), list(q)))
    torch.testing.assert_close(stacked[0], listed[0], rtol=1e-12, atol=1e-12)
    for name, grad in stacked[1].items():
        torch.testing.assert_close(grad, listed[1][name], rtol=1e-10, atol=1e-12)


def test_support_as_query_has_noise_of_its_own():
    meta, x = meta_svi(modules(), steps=0), rows()
    assert not torch.equal(seeded(lambda: meta.evaluate(x)), seeded(lambda: meta.evaluate(x), seed=5))


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
def test_a_program_that_departs_from_its_tape():
    """It draws more where the data say so: right in distribution, and no error."""

    def model(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1), obs=x)

    def guide(x):
        extra = torch.randn(3).sum() * 0 if x[0] > 0 else 0.0
        loc = pyro.param("loc", torch.tensor(0.2))
        pyro.sample("w", dist.Normal(loc + extra, 0.5))

    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO(), steps=2, engine=pm.Engine())
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1.0]])
    for tasks in (list(x), list(-x)):
        assert torch.isfinite(meta.evaluate(tasks)).all()
        assert math.isfinite(meta.step(tasks))
