"""Inner steps from proposals that are computed once, against an encoder that is run in every evaluation of the loss."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive

import pyrometa as pm


def line(y, x):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", y.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal((x * slope).sum(-1), noise), obs=y)


def tasks(*sizes):
    return [(torch.randn(n), torch.randn(n, 2)) for n in sizes]


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield pm.Amortize(line, tasks(4)[0], tasks=tasks(5), features=4, rounds=1, inner=pm.SGD(0.01))
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def amortized(built):
    return copy.deepcopy(built)


def in_every_evaluation(amortized, inner):
    """The MetaSVI whose loss runs the encoder, one task at a time."""
    elbo = pyro.infer.Trace_ELBO(num_particles=128, vectorize_particles=True, max_plate_nesting=1)
    return pm.MetaSVI(
        line,
        amortized.guide,
        pyro.optim.Adam({"lr": 0.0}),
        elbo,
        inner=inner,
        steps=2,
        adapt="guide.amortized.heads.*.bias",
        reduction="mean",
        engine=pm.Engine(vectorize=False),
        noise=pm.Noise("sobol", shared=True),
    )


def seeded(function, *args):
    torch.manual_seed(5)
    return function(*args)


def test_it_scores_what_an_encoder_in_every_evaluation_does(amortized):
    other, ragged = in_every_evaluation(amortized, pm.SGD(0.01)), tasks(3, 4)
    found = seeded(amortized.meta.evaluate, ragged)
    torch.testing.assert_close(found, seeded(other.evaluate, ragged), rtol=1e-9, atol=1e-9)
    assert (found[0] - found[2]).min() > 1e-4
    query = tuple(torch.stack(column) for column in zip(*tasks(5, 5), strict=True))
    found, expected = (seeded(meta.evaluate, ragged, query) for meta in (amortized.meta, other))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_newton_steps_are_those_with_an_encoder_in_every_evaluation(amortized):
    amortized.meta._refining.inner = pm.Newton()
    other, task, data = in_every_evaluation(amortized, pm.Newton()), tasks(4)[0], tasks(3)[0]
    for steps in (0, 2):
        guide, expected = (seeded(meta.adapt, task, steps) for meta in (amortized, other))
        torch.testing.assert_close(seeded(guide, *data), seeded(expected, *data), rtol=1e-9, atol=1e-9)


def test_the_encoder_runs_once_an_adaptation(amortized):
    same_size = tasks(4, 4)
    amortized.adapt_many(same_size)
    runs = []
    handle = amortized.encoder.read.register_forward_hook(lambda *_: runs.append(1))
    amortized.adapt_many(same_size)
    handle.remove()
    assert len(runs) == 1


def test_an_adapted_guide_is_ordinary(amortized):
    task = tasks(5)[0]
    guide = amortized.adapt(task)
    sampled = Predictive(guide.model, guide=guide, num_samples=3)(*task)
    assert sampled["slope"].shape == (3, 1, 2)  # Predictive has a dimension for the model's plate
    svi = SVI(guide.model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    before = guide.adapted.by_name()["guide.amortized.heads.noise.bias"].clone()
    svi.step(*task)
    assert not torch.equal(before, guide.adapted.by_name()["guide.amortized.heads.noise.bias"])


def test_a_state_and_a_file_hold_the_encoder(amortized, tmp_path):
    x = tasks(4, 4)
    amortized.meta.init(x)
    state = amortized.meta.state_dict()
    amortized.meta.save(tmp_path / "fitted.safetensors")
    expected = seeded(amortized.meta.evaluate, x)
    with torch.no_grad():
        next(amortized.encoder.guess.parameters()).add_(0.1)
    assert not torch.allclose(seeded(amortized.meta.evaluate, x), expected)
    amortized.meta.load_state_dict(state)
    torch.testing.assert_close(seeded(amortized.meta.evaluate, x), expected)
    with torch.no_grad():
        next(amortized.encoder.guess.parameters()).add_(0.1)
    amortized.meta.load(tmp_path / "fitted.safetensors")
    torch.testing.assert_close(seeded(amortized.meta.evaluate, x), expected)


def test_tasks_are_drawn_from_side_by_side(amortized):
    drawn = amortized.meta.sample_many(tasks(3, 4), draws=64, seed=1)
    assert drawn["slope"].shape == (2, 64, 2)
    assert (drawn["noise"] > 0).all()


def test_data_that_are_no_tasks_are_refused(amortized):
    with pytest.raises(TypeError, match=r"a task holds 1 argument for a model of \(y, x\)"):
        amortized.adapt(torch.ones(3))
    with pytest.raises(ValueError, match="3 tasks and query has 2"):
        amortized.meta.evaluate(tasks(4, 4, 4), tasks(4, 4))


def test_an_adapted_guide_can_be_pickled(amortized):
    task = tasks(3)[0]
    guide = seeded(amortized.adapt, task)
    found = pickle.loads(pickle.dumps(guide))
    expected, values = seeded(guide, *task), seeded(found, *task)
    assert all(torch.equal(values[name], expected[name]) for name in expected)
