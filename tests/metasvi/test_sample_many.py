"""Posteriors of many tasks side by side: what one task's guide draws, and what the exact posterior is."""

import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch.nn.functional import softplus

import pyrometa as pm

ADAM = pyro.optim.Adam({"lr": 0.01})


def model(x):
    loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 2.0))
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0, dtype=x.dtype), 0.5))
    with pyro.plate("rows", x.shape[-1]):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def linear(x):
    w = pyro.sample("w", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", x.shape[-2]):
        pyro.sample("y", dist.Normal((x[..., :2] * w).sum(-1), 0.5), obs=x[..., 2])


def tasks(sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64) + 0.3 * i for i, size in enumerate(sizes)]


def meta_svi(program=model, guide=AutoNormal, **options):
    return pm.MetaSVI(program, guide(program), ADAM, **{"steps": 2, "inner": pm.SGD(0.01), **options})


def drawn(meta, given, seed=3, **options):
    torch.manual_seed(seed)
    return meta.sample_many(given, **options)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_side_by_side_is_one_by_one(guide):
    given = tasks([3, 5, 3, 4])
    together = drawn(meta_svi(guide=guide), given, draws=8)
    alone = drawn(meta_svi(guide=guide, engine=pm.Engine(vectorize=False)), given, draws=8)
    assert together.keys() == alone.keys() == {"loc", "scale"}
    for name, values in together.items():
        assert values.shape == (4, 8)
        torch.testing.assert_close(values, alone[name], rtol=1e-10, atol=1e-10)


def test_a_task_does_not_depend_on_the_tasks_beside_it():
    given = tasks([3, 5, 3, 4])
    meta = meta_svi()
    together = drawn(meta, given, draws=8)
    for i, task in enumerate(given):
        torch.testing.assert_close(drawn(meta, [task], draws=8)["loc"][0], together["loc"][i], rtol=1e-12, atol=1e-12)
    assert not torch.equal(drawn(meta, given, seed=4, draws=8)["loc"], together["loc"])


def test_one_number_is_drawn_from_the_global_generator():
    torch.manual_seed(3)
    torch.randint(2**62, ())
    expected = torch.get_rng_state()
    drawn(meta_svi(), tasks([3, 5]), draws=4)
    assert torch.equal(torch.get_rng_state(), expected)


def test_draws_have_the_moments_of_the_adapted_guide():
    given = tasks([6, 6])
    meta = meta_svi(noise=pm.Noise(shared=True), loss=Trace_ELBO(num_particles=4, vectorize_particles=True))
    draws = drawn(meta, given, draws=1024, steps=0)["loc"]
    loc, scale = (parameter.detach() for name, parameter in meta.named_parameters() if "loc" in name.split("."))
    torch.testing.assert_close(draws.mean(1), loc.expand(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(draws.std(1), softplus(scale).expand(2), rtol=0, atol=1e-3)


def test_draws_are_of_the_exact_posterior():
    x = torch.randn(3, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    meta = meta_svi(
        linear, AutoMultivariateNormal, loss=elbo, inner=pm.Newton(), steps=8, noise=pm.Noise("sobol", shared=True)
    )
    draws = drawn(meta, x, draws=2048)["w"]
    precision = torch.eye(2).double() + x[..., :2].mT @ x[..., :2] / 0.25
    mean = torch.linalg.solve(precision, x[..., :2].mT @ x[..., 2:] / 0.25).squeeze(-1)
    torch.testing.assert_close(draws.mean(1), mean, rtol=0, atol=5e-3)
    for found, expected in zip(draws, torch.linalg.inv(precision), strict=True):
        torch.testing.assert_close(found.T.cov(), expected, rtol=0.05, atol=3e-3)


def test_a_guide_without_draws_gives_its_point():
    draws = drawn(meta_svi(guide=AutoDelta), tasks([3, 4]), draws=2)["loc"]
    assert torch.equal(draws[:, 0], draws[:, 1])


def test_sites_are_chosen_by_name():
    assert drawn(meta_svi(), tasks([3]), sites=["scale"], draws=4).keys() == {"scale"}
    with pytest.raises(ValueError, match=r"the guide samples no site 'slope': its sites are 'loc', 'scale'"):
        drawn(meta_svi(), tasks([3]), sites=["slope"], draws=4)


def local(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_guide(x):
    scale = pyro.param("s", torch.tensor(0.5, dtype=x.dtype))
    pyro.sample("all", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(scale * x, 1.0))


def test_a_site_of_another_shape_for_another_task_is_named():
    meta = pm.MetaSVI(local, local_guide, ADAM, steps=1)
    assert drawn(meta, tasks([3, 3]), draws=4)["z"].shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"site 'z' has shapes \(3,\) and \(4,\) for different tasks: leave it out"):
        drawn(meta, tasks([3, 4]), draws=4)


def branching_guide(x):
    scale = pyro.param("s", torch.tensor(0.5, dtype=x.dtype))
    shift = 1.0 if bool(x.sum() > 0) else -1.0
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(scale * x + shift, 1.0))


def test_a_guide_that_vmap_refuses_is_drawn_from_one_by_one():
    meta = pm.MetaSVI(local, branching_guide, ADAM, steps=0)
    given = torch.stack(tasks([3, 3]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = drawn(meta, given, draws=4)["z"]
    assert [w.category for w in told] == [pm.LoopWarning] * 2
    assert "drawn from one by one" in str(told[1].message)
    expected = drawn(
        pm.MetaSVI(local, branching_guide, ADAM, steps=0, engine=pm.Engine(vectorize=False)), given, draws=4
    )
    assert torch.equal(found, expected["z"])


@pytest.mark.parametrize("vectorize", ["auto", False])
@pytest.mark.parametrize(("adapt", "steps"), [("guide", 0), ("guide.amortized.heads.*.bias", 1)])
def test_modules_of_a_guide_are_not_warned_of(adapt, steps, vectorize):
    """Pyro warns of a module whose parameters seem frozen; the bench makes that an error."""
    guide = partial(pm.guides.SetEncoderGuide, encoder=Rows())
    meta = meta_svi(linear, guide, adapt=adapt, steps=steps, engine=pm.Engine(vectorize=vectorize))
    before = {name: leaf.requires_grad for name, leaf in meta.guide.named_parameters()}
    values = meta.sample_many(torch.randn(2, 5, 3), draws=4)["w"]
    assert (values.shape, values.requires_grad) == ((2, 4, 2), False)
    assert {name: leaf.requires_grad for name, leaf in meta.guide.named_parameters()}.items() >= before.items()


class Rows(torch.nn.Module):
    """Features of each row, by a plain module."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.layer(x)


def test_draws_and_keyword_arguments_of_no_use_are_refused():
    meta = meta_svi()
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        meta.sample_many(torch.randn(2, 5), draws=0)
    with pytest.raises(TypeError, match="kwargs must be a dictionary of keyword arguments by name, got list"):
        meta.sample_many(torch.randn(2, 5), kwargs=[1.0])
