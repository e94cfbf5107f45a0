"""One seed, one number: every draw of a task is the same, however the tasks are run."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO

import pyrometa as pm
from pyrometa.noise.streams import stream_of

SITES = {
    "Gamma": lambda r: dist.Gamma(1.0 + r, 1.5),
    "Gamma of many": lambda r: dist.Gamma((1.0 + r) * torch.linspace(0.2, 3.0, 6), 1.5).to_event(1),
    "StudentT": lambda r: dist.StudentT(5.0 + r, r, 1.0),
    "Beta": lambda r: dist.Beta(1.0 + r, 2.0),
    "Dirichlet": lambda r: dist.Dirichlet((1.0 + r) * torch.tensor([0.5, 1.0, 2.0])),
    "Poisson": lambda r: dist.Poisson(3.0 + r),
    "Binomial": lambda r: dist.Binomial(torch.tensor([4, 9, 40]), torch.sigmoid(r)).to_event(1),
    "NegativeBinomial": lambda r: dist.NegativeBinomial(3.0, torch.sigmoid(r)),
    "Multinomial": lambda r: dist.Multinomial(4, torch.softmax(torch.stack([r, -r, 0.0 * r]), 0)),
    "Categorical": lambda r: dist.Categorical(torch.softmax(torch.stack([r, -r, 0.0 * r]), 0)),
    "Bernoulli": lambda r: dist.Bernoulli(torch.sigmoid(r)),
    "VonMises": lambda r: dist.VonMises(r, 2.0),
}
RECORDED = ("Gamma of many", "Binomial")
ENGINES = {"default": pm.Engine, "chunks": lambda: pm.Engine(chunk_size=2)}
TASKS = torch.linspace(0.0, 4.0, 15, dtype=torch.float64).reshape(3, 5)
SIZES = (3, 8, 5, 6, 2, 7)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def with_site(make):
    """A guide that draws a site, and a normal after it."""

    def model(x):
        z = pyro.sample("z", make(torch.tensor(0.4)))
        pyro.sample("after", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z.to(x.dtype).sum(), 1.0), obs=x)

    def guide(x):
        pyro.sample("z", make(pyro.param("r", torch.tensor(0.5)).exp()))
        pyro.sample("after", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0))

    return model, guide


def with_local_sites(make):
    """A guide that draws a site for each datum."""

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", make(torch.tensor(0.4)))
            pyro.sample("x", dist.Normal(z.to(x.dtype), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", make(pyro.param("r", torch.tensor(0.5)).exp()))

    return model, guide


def departing(late):
    """A guide that draws more than at first, once it is late, and where the data say so."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.1))
        if late(x):
            loc = loc + torch.randn(3).sum() + torch.rand(()) + torch.poisson(torch.tensor(3.0))
        pyro.sample("z", dist.Normal(loc, 1.0))

    return model, guide


def meta_svi(program, engine):
    pyro.clear_param_store()
    optim, first_order = pyro.optim.Adam({"lr": 1e-3}), pm.Unrolled(first_order=True)
    inner, loss = pm.SGD(1e-3), Trace_ELBO()
    return pm.MetaSVI(*program, optim, loss, inner=inner, steps=2, meta_gradient=first_order, engine=engine)


def numbers(meta, tasks, seed=7):
    """Loss, gradients, and where the global generator is left."""
    torch.manual_seed(seed)
    loss, grads = meta.loss_and_grads(tasks)
    return torch.cat([loss[None], *(g.flatten() for g in grads.values()), torch.rand(1)])


def value(program, engine, tasks):
    return numbers(meta_svi(program, engine), tasks)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
@pytest.mark.parametrize("name", SITES)
def test_sites(name):
    program = with_site(SITES[name])
    expected = value(program, pm.Engine(vectorize=False), TASKS)
    for engine in ENGINES.values():
        meta = meta_svi(program, engine())
        for _ in range(2):
            close(numbers(meta, TASKS), expected)


def test_recorded_sites():
    def model(x):
        drawn = [pyro.sample(name, SITES[name](torch.tensor(0.4))) for name in RECORDED]
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(sum(z.sum() for z in drawn), 20.0), obs=x)

    def guide(x):
        for i, name in enumerate(RECORDED):
            pyro.sample(name, SITES[name](pyro.param(f"r{i}", torch.tensor(0.5)).exp()))

    recorded, loop = (
        meta_svi((model, guide), engine) for engine in (pm.Engine(record=True), pm.Engine(vectorize=False))
    )
    for seed in (7, 8):  # the second is replayed
        close(numbers(recorded, TASKS, seed), numbers(loop, TASKS, seed))


def test_what_can_not_be_recorded_is_refused_by_name():
    with pytest.raises(pm.UnsupportedProgramError, match=r"site 'z' \(VonMises\)"):
        value(with_site(SITES["VonMises"]), pm.Engine(record=True), TASKS)


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
@pytest.mark.parametrize("name", ["Gamma", "Poisson", "StudentT", "Beta", "VonMises", "Bernoulli"])
def test_tasks_of_different_sizes(name):
    program, tasks = with_local_sites(SITES[name]), [torch.linspace(0.0, 3.0, n) for n in SIZES]
    expected = value(program, pm.Engine(vectorize=False), tasks)
    close(value(program, pm.Engine(chunk_size=2), tasks), expected)


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
def test_rows_that_are_not_drawn_first():
    """Padding would change the draws of a stream: that is found out, and such tasks are run size by size."""

    def model(x):
        with pyro.plate("rows", len(x)), pyro.plate("more", 4, dim=-2):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)), pyro.plate("more", 4, dim=-2):
            pyro.sample("z", dist.Gamma(1.0 + pyro.param("r", torch.tensor(0.5)).exp(), 1.0))

    tasks = [torch.linspace(0.0, 3.0, n) for n in SIZES]
    expected = value((model, guide), pm.Engine(vectorize=False), tasks)
    close(value((model, guide), pm.Engine(), tasks), expected)


def test_scores_and_adapted_parameters():
    found = []
    for engine in (pm.Engine(vectorize=False), pm.Engine(), pm.Engine(chunk_size=2)):
        meta = meta_svi(with_site(SITES["Gamma"]), engine)
        meta.init(TASKS)
        torch.manual_seed(7)
        scores, guides = meta.evaluate(TASKS), meta.adapt_many(TASKS)
        found.append(torch.cat([scores.flatten(), *(p.detach().reshape(1) for g in guides for p in g.parameters())]))
    for other in found[1:]:
        close(other, found[0])


def test_every_task_and_step_has_a_stream_of_its_own():
    meta = meta_svi(with_site(SITES["Gamma"]), pm.Engine())
    same = TASKS[:1].expand(4, -1)
    torch.manual_seed(7)
    scores = meta.evaluate(same)
    assert len(set(scores[0].tolist())) == 4
    adapted = [torch.stack([p.detach() for p in guide.parameters()]) for guide in meta.adapt_many(same)]
    assert len({tuple(values.tolist()) for values in adapted}) == 4


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_draws_that_the_tape_does_not_hold(engine):
    expected = value(departing(lambda x: x[0] > 1.0), pm.Engine(vectorize=False), TASKS)
    close(value(departing(lambda x: x[0] > 1.0), ENGINES[engine](), TASKS), expected)


def test_draws_that_come_later():
    """Side by side as in the loop, once the program draws more than it did on first data."""
    found, late = [], []
    for engine in (pm.Engine(vectorize=False), pm.Engine(vectorize=True), pm.Engine(vectorize=True, chunk_size=2)):
        late.clear()
        meta = meta_svi(departing(lambda x: late), engine)
        before = numbers(meta, TASKS)
        late.append(True)
        found.append(numbers(meta, TASKS))
        assert not torch.allclose(before, found[-1])
    for other in found[1:]:
        close(other, found[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_of_one_kind_is_not_taken_for_another(engine):
    """A program that asks for uniforms where it asked for normals gets uniforms."""
    late, seen = [], []

    def model(x):
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0).expand([5]).to_event(1), obs=x)

    def guide(x):
        drawn = torch.rand(3) if late else torch.randn(3)
        seen.append((drawn.min() >= 0) & (drawn.max() < 1))
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)) + drawn.sum(), 1.0))

    loop, other = (meta_svi((model, guide), made) for made in (pm.Engine(vectorize=False), ENGINES[engine]()))
    for stage in range(2):
        late.extend([True] * stage)
        close(numbers(other, TASKS), numbers(loop, TASKS))
        seen.clear()
        numbers(loop, TASKS)
        assert all(seen) == bool(stage)


def test_streams_of_noise_differ_and_padding_does_not_count():
    noise = [torch.randn(500, 3), torch.rand(500, 1, dtype=torch.float32)]
    seeds = torch.vmap(lambda *parts: stream_of(parts))(*noise)
    assert len(set(seeds.tolist())) == 500
    assert seeds[3] == stream_of([part[3] for part in noise])
    assert seeds[3] == stream_of([F.pad(part[3], (0, 2)) for part in noise])
