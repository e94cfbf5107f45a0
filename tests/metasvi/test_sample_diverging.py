"""Tasks that diverge beside others: these are what they are alone, and each of those is told why as alone."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrometa as pm


def model(x):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 2.0))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("rows", x.shape[-2]):
        pyro.sample("x", dist.Normal(loc, scale).expand([x.shape[-2], 2]).to_event(1), obs=x)


class Encoder(nn.Module):
    """Its linear layers are held as factors, and it is registered by ``pyro.module``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 4))

    def forward(self, x):
        pyro.module("encoder", self)
        loc, log_scale = self.net(x).mean(0).view(2, 2)
        pyro.sample("loc", dist.Normal(loc[0], log_scale[0].exp()))
        pyro.sample("scale", dist.LogNormal(loc[1], log_scale[1].exp()))


def meta_svi(guide="auto", inner=None, **options):
    torch.manual_seed(0)
    made = Encoder().double() if guide == "encoder" else AutoNormal(model)
    inner = pm.SGD(0.01) if inner is None else inner
    return pm.MetaSVI(model, made, pyro.optim.Adam({"lr": 0.01}), inner=inner, **{"steps": 4, **options})


def tasks(scales, sizes):
    generator = torch.Generator().manual_seed(1)
    return [s * torch.randn(n, 2, generator=generator, dtype=torch.float64) for s, n in zip(scales, sizes, strict=True)]


def drawn(meta, given, **options):
    return meta.sample_many(given, draws=8, seed=3, **options)


def told(reason):
    """Without the loss, which is infinite or NaN as its parts are added up."""
    return re.sub(r"loss (inf|nan)", "loss", reason)


def said_alone(meta, task):
    with pytest.raises(pm.NonFiniteError) as alone:
        drawn(meta, [task])
    return str(alone.value)


SCALES = (1.0, 1e200, 0.5, 1e3, 2.0, 30.0)  # infinite at once, good, and steps that grow until the loss is infinite
SIZES = (3, 3, 5, 3, 3, 5)
KINDS = {
    "SGD": {},
    "Adam": {"inner": pm.Adam(0.1)},
    "momentum": {"inner": pm.Momentum(0.01)},
    "Newton": {"inner": pm.Newton()},
    "natural gradient": {"inner": pm.NaturalGradient(0.3)},
    "factors": {"guide": "encoder", "inner": pm.SGD(0.003), "engine": pm.Engine(low_rank=True)},
    "chunks": {"engine": pm.Engine(chunk_size=2)},
    "recorded": {"engine": pm.Engine(record=True), "steps": 2},
    "one by one": {"engine": pm.Engine(vectorize=False)},
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(o, id=kind, marks=[pytest.mark.slow] if kind == "recorded" else []) for kind, o in KINDS.items()],
)
def test_each_task_is_as_alone(options):
    given, meta, diverged = tasks(SCALES, SIZES), meta_svi(**options), {}
    found = drawn(meta, given, diverged=diverged)
    assert 1 in diverged
    assert not {0, 2, 4} & {*diverged}
    for i, task in enumerate(given):
        if i in diverged:
            alone = said_alone(meta, task)
            assert told(diverged[i]) == told(alone) or "the program refuses the adapted parameters" in alone
            assert diverged[i].partition(":")[0] == alone.partition(":")[0]
            assert all(values[i].isnan().all() for values in found.values())
        else:
            for name, values in drawn(meta, [task]).items():
                torch.testing.assert_close(found[name][i], values[0], rtol=1e-9, atol=1e-9)


def test_steps_are_told_of_each_task():
    diverged = {}
    drawn(meta_svi(steps=12), tasks(SCALES, SIZES), diverged=diverged)
    assert len({reason.partition(":")[0] for reason in diverged.values()}) >= 2


def test_without_a_place_for_reasons_it_raises():
    with pytest.raises(pm.NonFiniteError, match="task 1, inner step 0"):
        drawn(meta_svi(), tasks(SCALES, SIZES))
