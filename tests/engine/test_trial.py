"""What a trial proves covers what the plan is used for: another batch, other padding, another mode, any precision."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrometa as pm

LOOP = pm.Engine(vectorize=False)
FLOAT64 = {"dtype": torch.float64}


def rows(sizes, make):
    return [make(n) for n in sizes]


def pair(n, dtype=torch.float64):
    return 1 + torch.randn(n, 2, dtype=dtype), torch.randn(n, dtype=dtype)


def zeros(n):
    return torch.zeros(n, 2, **FLOAT64), torch.zeros(n, **FLOAT64)


def labelled(n):
    return torch.randn(n, 2, **FLOAT64), torch.randint(0, 2, (n,))


def all_one_label(n):
    return torch.randn(n, 2, **FLOAT64), torch.zeros(n, dtype=torch.int64)


def regression(z, y):
    weight = pyro.sample("weight", dist.Normal(z.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(z)):
        pyro.sample("y", dist.Normal(z @ weight, 1.0), obs=y)


def meta_svi(model, guide=None, engine=None, **options):
    pyro.clear_param_store()
    options = {"inner": pm.SGD(1e-3), "steps": 1, "loss": Trace_ELBO(), **options}
    return pm.MetaSVI(model, guide or AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), engine=engine, **options)


def after(engine, model, batches, guide=None, **options):
    """Loss and gradient on the last of some batches, each of its own noise."""
    meta = meta_svi(model, guide and guide(), engine, **options)
    for seed, batch in enumerate(batches):
        torch.manual_seed(seed)
        loss, grads = meta.loss_and_grads(batch, batch)
    return loss, grads


def assert_same(model, batches, guide=None, engine=None, rtol=1e-9, **options):
    loss, grads = after(engine or pm.Engine(), model, batches, guide, **options)
    expected = after(LOOP, model, batches, guide, **options)
    torch.testing.assert_close(loss, expected[0], rtol=rtol, atol=rtol)
    assert_equal(grads, expected[1], rtol=rtol, atol=rtol)


def centered(x, y):
    regression(x - x.mean(0), y)


def by_length(x, y):
    regression(x / len(x), y)


def ordered(x, y):
    regression(x.sort(0).values, y)


def told_of_all(x, y):
    regression(x + y.to(x).mean(), y.to(x))


def summed_latents(x, y):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(x[:, 0] + 0.1 * z.sum(), 1.0), obs=y)


def guide_of_latents(x, y):
    slope = pyro.param("slope", lambda: x.new_zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * y, 0.5))


@pytest.mark.parametrize(
    ("model", "first", "then"),
    [
        (centered, zeros, pair),
        (by_length, zeros, pair),
        (ordered, zeros, pair),
        (told_of_all, all_one_label, labelled),
        (summed_latents, zeros, pair),
    ],
    ids=lambda value: value.__name__,
)
@pytest.mark.parametrize("sizes", [(4, 4, 8, 8), (3, 4, 5, 6)], ids=str)
def test_a_first_batch_that_hides_that_rows_are_mixed(model, first, then, sizes):
    guide = (lambda: guide_of_latents) if model is summed_latents else None
    with pytest.warns(pm.LoopWarning, match="run size by size.*rows that do not count change the loss"):
        assert_same(model, [rows(sizes, first), rows((3, 4, 5, 6), then)], guide)


def classes(x, y):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=torch.stack([x @ weight, 0 * x[:, 0]], -1)), obs=y)


def one_of_three(x, i):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(weight.gather(0, i - 1), 1.0), obs=x)


def known_covariance(x, covariance):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.MultivariateNormal(mean, covariance), obs=x)


def with_a_shared_vector(x, shared, y):
    regression(x + shared @ torch.arange(8.0, **FLOAT64), y)


@pytest.mark.parametrize(
    ("model", "make"),
    [
        (classes, labelled),
        (classes, all_one_label),
        (one_of_three, lambda n: (torch.randn(n, **FLOAT64), torch.randint(1, 4, (n,)))),
        (
            known_covariance,
            lambda n: (torch.randn(n, 2, **FLOAT64), torch.diag_embed(0.01 + 0.1 * torch.rand(n, 2, **FLOAT64))),
        ),
        (with_a_shared_vector, lambda n: (*pair(n)[:1], torch.randn(8, **FLOAT64), pair(n)[1])),
    ],
    ids=["labels", "one label", "labels from one", "covariances", "as many numbers as rows"],
)
def test_rows_that_are_not_mixed_are_padded_whatever_they_hold(model, make):
    assert_same(model, [rows((8, 8, 4, 4), make), rows((3, 5, 7, 8), make)], engine=pm.Engine(vectorize=True))


def with_a_draw_past_torchs_functions(x, y):
    regression(x + torch.ops.aten.rand.default([1], **FLOAT64), y)


def test_padding_that_no_noise_can_prove_is_not_used():
    meta = meta_svi(with_a_draw_past_torchs_functions, AutoNormal(regression))
    batch = rows((3, 4, 3, 4), pair)
    with pytest.warns(pm.LoopWarning, match="run size by size"):
        meta.loss_and_grads(batch, batch)


def infinite_at_zero(x, y):
    pyro.factor("log", x[0, 0].square().log())
    centered(x, y)


def test_tasks_that_prove_nothing_are_run_without_a_plan():
    engines = pm.Engine(), LOOP
    metas = [meta_svi(infinite_at_zero, AutoNormal(infinite_at_zero), engine) for engine in engines]
    losses = []
    for meta in metas:
        torch.manual_seed(0)
        losses.append(meta.evaluate(rows((3, 4, 4), zeros), steps=(0,)))
    assert not losses[0].isfinite().any()
    torch.testing.assert_close(*losses, equal_nan=True)
    assert not metas[0]._runner._plans.kept
    with pytest.warns(pm.LoopWarning, match="rows that do not count change the loss"):
        assert_same(infinite_at_zero, [rows((3, 4, 4), pair)])


class Switched(nn.Module):
    """Mixes rows in training, or if told to."""

    def __init__(self):
        super().__init__()
        self.mixes = False

    def forward(self, x, y):
        (centered if self.training or self.mixes else regression)(x, y)


@pytest.mark.parametrize("switch", [nn.Module.train, lambda model: setattr(model, "mixes", True)], ids=["mode", "flag"])
def test_another_mode_is_another_trial(switch):
    model = Switched().eval()
    metas = [meta_svi(model, AutoNormal(model), engine) for engine in (pm.Engine(), LOOP)]
    batch, found = rows((3, 4, 3, 4), pair), []
    for meta in metas:
        model.eval()
        model.mixes = False
        meta.loss_and_grads(batch, batch)
        switch(model)
        torch.manual_seed(1)
        if meta.engine is LOOP:
            found.append(meta.loss_and_grads(batch, batch))
        else:
            with pytest.warns(pm.LoopWarning, match="rows that do not count change the loss"):
                found.append(meta.loss_and_grads(batch, batch))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=0)


def imputed(x, m, y):
    regression(torch.where(m > 0, x, (x * m).sum(0) / m.sum(0)), y)


def imputed_where_zero(x, _, y):
    regression(torch.where(x == 0, x.mean(0), x), y)


@pytest.mark.parametrize("sizes", [(5, 6, 7, 6), (5, 6, 8, 8)], ids=["padded", "full"])
@pytest.mark.parametrize("model", [imputed, imputed_where_zero])
def test_values_that_only_later_tasks_lack(model, sizes):
    batch = rows(sizes, lambda n: (torch.rand(n, 2, **FLOAT64), torch.ones(n, 2, **FLOAT64), pair(n)[1]))
    for x, m, _ in batch[2:]:
        (m if model is imputed else x)[1, 0] = 0.0
    with pytest.warns(pm.LoopWarning, match="run size by size"):
        assert_same(model, [batch])


class Annealed(nn.Module):
    """Centres by as much as it is told, or holds."""

    def __init__(self):
        super().__init__()
        self.calls, self.number = 0, 0.0
        self.tensor = torch.zeros((), **FLOAT64)
        self.register_buffer("buffer", torch.zeros((), **FLOAT64))

    def forward(self, x, y, told=0.0):
        self.calls += 1
        regression(x - (told + self.number + self.tensor + self.buffer) * x.mean(0), y)

    def turn_on(self, kind):
        """Keyword arguments of the next step."""
        if kind == "kwargs":
            return {"told": torch.ones((), **FLOAT64)}
        self.number = 1.0 if kind == "number" else 0.0
        for name in ("tensor", "buffer"):
            getattr(self, name).fill_(float(name == kind))
        return {"told": torch.zeros((), **FLOAT64)}


@pytest.mark.parametrize("kind", ["kwargs", "number", "tensor", "buffer"])
def test_a_term_that_is_turned_on_is_tried(kind):
    batch, found = rows((5, 6, 7, 8), pair), []
    for engine in (LOOP, pm.Engine()):
        model = Annealed()
        meta = meta_svi(model, engine=engine)
        for _ in range(2):
            meta.loss_and_grads(batch, kwargs=model.turn_on(None))
        assert len(meta._runner._plans.kept) <= 1
        torch.manual_seed(1)
        with nullcontext() if engine is LOOP else pytest.warns(pm.LoopWarning, match="run size by size"):
            found.append(meta.loss_and_grads(batch, kwargs=model.turn_on(kind)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=0)
    assert_equal(found[1][1], found[0][1], rtol=1e-9, atol=1e-12)


def slightly_centred(x, y):
    regression(x - 0.01 * x.mean(0), y)


def test_what_is_a_percent_wrong_is_seen_in_single_precision():
    batch = rows((3, 4, 5, 6), lambda n: pair(n, torch.float32))
    with pytest.warns(pm.LoopWarning, match="rows that do not count change the loss"):
        assert_same(slightly_centred, [batch], rtol=1e-5)


class Networks(nn.Module):
    """A variational autoencoder of two hidden layers on each side."""

    def __init__(self, size=256, hidden=100, latent=4):
        super().__init__()
        self.latent = latent
        self.encoder, self.decoder = _network(size, hidden, 2 * latent), _network(latent, hidden, size)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def _network(*sizes):
    into, hidden, out = sizes
    layers = (nn.Linear(into, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, out))
    return nn.Sequential(*layers)


def test_rounding_that_single_precision_makes_much_of_is_no_difference():
    torch.manual_seed(1)  # in single precision loop and side by side then differ by more than 2%
    program = Networks()
    inner = pm.Adam(1e-3, learn="layer_step")
    meta = meta_svi(program.model, program.guide, pm.Engine(vectorize=True), inner=inner, steps=2)
    meta.step((torch.rand(4, 10, 256) < 0.3).float())


class Scratch(nn.Module):
    """Writes into a tensor of its own, or rounds, so that nothing of it is in double precision."""

    def __init__(self, rounds):
        super().__init__()
        self.rounds = rounds
        self.register_buffer("ones", torch.ones(2))

    def forward(self, x, y):
        regression(x.type(torch.FloatTensor) if self.rounds else x * self.ones.fill_(1.0), y)


@pytest.mark.parametrize("rounds", [False, True])
def test_what_only_runs_in_single_precision_is_tried_in_it(rounds):
    model = Scratch(rounds)
    batch = [torch.stack(column) for column in zip(*rows((5, 5, 5), lambda n: pair(n, torch.float32)), strict=True)]
    assert_same(model, [tuple(batch)], engine=pm.Engine(vectorize=True), rtol=1e-4)


def looks_at_values_in_single(x, y):
    if x.dtype == torch.float32 and x.sum() > 1e6:
        raise ValueError("large")
    regression(x, y)


def test_what_fails_only_in_single_precision_is_run_in_the_loop():
    batch = tuple(torch.stack(c) for c in zip(*rows((5, 5, 5), lambda n: pair(n, torch.float32)), strict=True))
    with pytest.warns(pm.LoopWarning, match="run one by one"):
        assert_same(looks_at_values_in_single, [batch], rtol=1e-4)
