"""Antithetic pairs, Sobol points and shared draws: what they promise, and that nothing else moves."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch.distributions import constraints

import pyrometa as pm
from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.replay import RecordNoise

F64 = torch.float64
KINDS = ("antithetic", "sobol")


def double(value):
    return torch.tensor(value, dtype=F64)


def model(x):
    """Latents of each kind of draw: a normal, a uniform, one of each row, and one that is drawn by rejection."""
    loc = pyro.sample("loc", dist.Normal(double(0.0), 3.0))
    shift = pyro.sample("shift", dist.Uniform(double(-1.0), 1.0))
    scale = pyro.sample("scale", dist.Gamma(double(4.0), 4.0))
    with pyro.plate("data", x.shape[-1]):
        z = pyro.sample("z", dist.Normal(loc + shift, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def guide(x):
    loc, spread = pyro.param("m", double(0.3)), pyro.param("s", double(0.7), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(loc, spread))
    pyro.sample("shift", dist.Uniform(loc.detach() * 0 - 1.0, 1.0))
    pyro.sample("scale", dist.Gamma(double(20.0), 20.0))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("z", dist.Normal(x * pyro.param("w", double(0.5)), spread))


def elbo(kind=Trace_ELBO, particles=8, together=True, **options):
    return kind(num_particles=particles, vectorize_particles=together, max_plate_nesting=1, **options)


def meta_svi(points="sobol", *, shared=False, program=(model, guide), loss=None, **options):
    options = {"inner": pm.SGD(0.01), "steps": 3, **options}
    noise = pm.Noise(points, shared)
    return pm.MetaSVI(*program, pyro.optim.Adam({"lr": 0.01}), loss or elbo(), noise=noise, **options)


def data(tasks=3, rows=4):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(tasks, rows, dtype=F64, generator=generator)


def seeded(use, seed=4):
    torch.manual_seed(seed)
    return use()


def batches(meta, x):
    """The meta-batch with its noise."""
    return seeded(lambda: meta._problem(x, None, None, meta.steps))[1]


def test_by_default_noise_is_drawn_as_ever():
    with RecordNoise() as recorder:
        torch.randn(3, 2)
        torch.rand(4)
    drawn = seeded(lambda: draw_noise([recorder.tape], [[0, 1]], 5))
    states = [torch.get_rng_state()]
    by_hand = seeded(lambda: (torch.empty(2, 5, 3, 2).normal_(), torch.empty(2, 5, 4).uniform_()))
    states.append(torch.get_rng_state())
    for step in range(5):
        assert all(torch.equal(got, whole[:, step]) for got, whole in zip(drawn[0][step], by_hand, strict=True))
    assert torch.equal(*states)
    found = []
    for noise in (None, pm.Noise()):
        pyro.clear_param_store()
        meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo(), noise=noise)
        found.append((*seeded(lambda meta=meta: meta.loss_and_grads(data())), torch.get_rng_state()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][2], found[1][2])
    assert_equal(found[0][1], found[1][1], rtol=0, atol=0)


@pytest.mark.parametrize("together", [True, False])
def test_antithetic_particles_are_mirror_images(together):
    meta = meta_svi("antithetic", loss=elbo(together=together))
    (batch,) = batches(meta, data())
    for draws in (*batch.support_noise, batch.query_noise):
        if together:
            loc, shift, _, z = draws
        else:
            loc, shift, _, z = (torch.stack(draws[i::4], 1) for i in range(4))
        for normal in (loc, z):
            assert not (normal[:, :4] + normal[:, 4:]).any()
            assert len(normal[:, :4].unique()) == normal[:, :4].numel()
        torch.testing.assert_close(shift[:, :4] + shift[:, 4:], torch.ones_like(shift[:, :4]), rtol=0, atol=1e-15)


def test_the_noise_of_sobol_points_is_a_net_in_each_draw():
    (batch,) = batches(meta_svi("sobol"), data())
    for draws in (*batch.support_noise, batch.query_noise):
        loc, shift, _, z = draws
        for uniform in (torch.special.ndtr(loc), shift, torch.special.ndtr(z)):
            strata = (uniform * 8).long().flatten(2).sort(1).values
            assert torch.equal(strata, torch.arange(8)[:, None].expand_as(strata))


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_is_one_result(kind):
    meta, x = meta_svi(kind), data()
    first, again, other = (seeded(lambda: meta.evaluate(x), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [True, False])
def test_points_do_not_depend_on_the_grouping(kind, together):
    """Tasks of fewer rows take the leading block of what they would take with more."""
    loss = elbo(particles=4, together=together)
    meta, x = meta_svi(kind, loss=loss), data(rows=6)
    (whole,) = batches(meta, x)
    ragged = [x[0, :4], x[1], x[2, :4]]
    for batch in batches(meta, ragged):
        for step in range(3):
            for part, full in zip(batch.support_noise[step], whole.support_noise[step], strict=True):
                block = full[list(batch.index)]
                assert torch.equal(part, block[tuple(map(slice, part.shape))])
    by_loop = meta_svi(kind, loss=loss, engine=pm.Engine(vectorize=False))
    losses, expected = (seeded(lambda m=m: m.evaluate(ragged)) for m in (meta, by_loop))
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-9)


ENGINES = {"vmap": pm.Engine(), "chunks": pm.Engine(chunk_size=2), "recorded": pm.Engine(record=True)}


@pytest.mark.parametrize(
    ("engine", "kind"), [("vmap", "antithetic"), ("vmap", "sobol"), ("chunks", "sobol"), ("recorded", "sobol")]
)
def test_engines_and_forms_of_particles_read_the_same_points(engine, kind):
    """The loop with particles in turn is the reference."""
    x, found = data(), []
    for options in ({"engine": pm.Engine(vectorize=False), "loss": elbo(together=False)}, {"engine": ENGINES[engine]}):
        pyro.clear_param_store()
        meta = meta_svi(kind, program=(reparameterised, reparameterised_guide), steps=2, **options)
        found.append(seeded(lambda meta=meta: meta.loss_and_grads(x)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=1e-9)
    assert_equal(found[1][1], found[0][1], rtol=1e-9, atol=1e-9)


def reparameterised(x):
    loc = pyro.sample("loc", dist.Normal(double(0.0), 3.0))
    with pyro.plate("data", x.shape[-1]):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z + 0.1 * z**3, 1.0), obs=x)


def reparameterised_guide(x):
    loc, spread = pyro.param("m", double(0.3)), pyro.param("s", double(0.7), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(loc, spread))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("z", dist.Normal(x * pyro.param("w", double(0.5)), spread))


@pytest.mark.parametrize("points", ["random", *KINDS])
def test_shared_steps_share(points):
    (batch,) = batches(meta_svi(points, shared=True), data())
    (apart,) = batches(meta_svi(points), data())
    for first, second, asked, other in zip(
        *batch.support_noise[:2], batch.query_noise, apart.support_noise[1], strict=True
    ):
        assert torch.equal(first, second)
        assert not torch.isclose(first.double(), asked.double()).any()
        assert not torch.isclose(first.double(), other.double()).any()


@pytest.mark.parametrize("kind", KINDS)
def test_implicit(kind):
    """At the minimum on the one draw that all inner steps and products see, as any long descent finds it."""
    x, found = data(), []
    for steps in (60, 120):
        pyro.clear_param_store()
        meta = meta_svi(
            kind,
            program=(reparameterised, reparameterised_guide),
            inner=pm.ProximalSGD(0.05, 4.0),
            steps=steps,
            meta_gradient=pm.Implicit(iterations=12),
        )
        found.append(seeded(lambda meta=meta: meta.loss_and_grads(x)))
    torch.testing.assert_close(*(loss for loss, _ in found), rtol=1e-6, atol=1e-6)
    assert_equal(found[0][1], found[1][1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradients_are_unbiased(kind):
    """Within four standard errors of many random draws: one run in 5,000 with other seeds fails by chance.

    That of the mean, in which the loss is nearly linear, varies less than a fifth as much.
    """
    x, seeds = data(1).expand(64, 4), 60

    def sample(points):
        pyro.clear_param_store()
        meta = meta_svi(points, program=(reparameterised, reparameterised_guide), loss=elbo(particles=4))
        grads = [seeded(lambda: meta.loss_and_grads(x)[1], seed) for seed in range(seeds)]
        return torch.stack([torch.stack([*grad.values()]) for grad in grads])

    random, points = sample("random"), sample(kind)
    error = ((random.var(0) + points.var(0)) / seeds).sqrt()
    assert ((random.mean(0) - points.mean(0)).abs() < 4 * error).all()
    assert points.var(0)[0] < 0.2 * random.var(0)[0]


def test_what_all_particles_share_stays_random():
    """As many rows as particles: a mask of rows and their order are no particles' draws all the same."""
    particles = 4

    def shared(x):
        with pyro.plate("rows", 8, subsample_size=particles) as rows:
            mask = torch.nn.functional.dropout(torch.ones(particles, dtype=F64), 0.5)
            loc = pyro.sample("loc", dist.Normal(pyro.param("m", double(0.1)) * mask, 1.0))
        return loc, rows

    meta = meta_svi("antithetic", program=(shared, shared), loss=elbo(particles=particles))
    meta.init(data())
    tape = meta._program.tape(pm.types.Data((data()[0],), {}))
    taken = {column.draws for column in meta._program.points("antithetic", pm.types.Data((data()[0],), {})).columns}
    assert [tape[i].shape for (i,) in taken] == [(4, 4)]
    assert len(tape) == 4  # the order of rows, the guide's mask, the draw, the model's mask


ELBOS = {
    "enumerated": lambda: elbo(TraceEnum_ELBO),
    "Rényi": lambda: elbo(RenyiELBO, together=False, alpha=0.5),
}


@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.parametrize("kind", KINDS)
def test_other_elbos_of_their_own_for_loss_and_score(name, kind):
    def mixture(x):
        loc = pyro.sample("loc", dist.Normal(double(0.0), 3.0))
        with pyro.plate("data", x.shape[-1]):
            k = pyro.sample("k", dist.Bernoulli(double(0.3)), infer={"enumerate": "parallel"}) if enumerated else 0.0
            pyro.sample("x", dist.Normal(loc + 2 * k, 1.0), obs=x)

    def of_loc(x):
        pyro.sample("loc", dist.Normal(pyro.param("m", double(0.3)), pyro.param("s", double(0.7))))

    enumerated, losses = name == "enumerated", []
    for vectorize in (True, False):
        pyro.clear_param_store()
        meta = meta_svi(
            kind,
            program=(mixture, of_loc),
            loss=ELBOS[name](),
            score=elbo(TraceEnum_ELBO) if enumerated else Trace_ELBO(num_particles=2, vectorize_particles=True),
            engine=pm.Engine(vectorize=vectorize),
        )
        losses.append(seeded(lambda meta=meta: meta.evaluate(data())))
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)


def function(model, guide, *args):
    return Trace_ELBO().differentiable_loss(model, guide, *args)


def test_a_score_that_is_a_function_has_random_noise():
    meta = meta_svi("sobol", score=function, engine=pm.Engine(vectorize=False))
    assert torch.isfinite(meta.evaluate(data())).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pickled(kind):
    meta, x = meta_svi(kind, shared=True), data()
    meta.init(x)
    again = pickle.loads(pickle.dumps(meta))
    assert again.noise == meta.noise == pm.Noise(kind, shared=True)
    assert seeded(lambda: meta.step(x)) == seeded(lambda: again.step(x))
