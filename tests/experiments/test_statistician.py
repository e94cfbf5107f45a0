"""The Neural Statistician on digits that stand in for characters."""

import json

import pytest
import torch
from PIL import Image
from pyro import poutine
from pyro.infer import Trace_ELBO

from experiments import statistician


def test_quick(tmp_path):
    result = statistician.main(["--quick", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["VAE"] == result["VAE"]
    assert list(written["refined"]) == ["1", "2", "5", "10"]
    assert len(written["refined"]["10"]) == 6
    for size in statistician.SIZES:
        gain = result["VAE"]["mean"] - result["statistician"][size]["mean"]
        assert result["gain over the VAE"][size]["mean"] == pytest.approx(gain, abs=1e-3)
    with Image.open(tmp_path / "drawings.png") as image:
        assert min(image.size) > 400


def test_the_context_is_what_the_support_set_says_and_not_counted_again():
    net = statistician.Statistician(pixels=16, hidden=8, context=3, latent=2)
    support, query = torch.rand(4, 16).bernoulli(), torch.rand(6, 16).bernoulli()
    net.guide(support)
    torch.manual_seed(0)
    found = statistician.unseen_drawings(net.model, net.guide.condition(support), query)
    torch.manual_seed(0)
    c = net.guide.context(support)["c"]
    known = poutine.condition(net.model, {"c": c})
    rest = poutine.block(net.guide.drawings, hide=["c"])
    whole = Trace_ELBO().differentiable_loss(known, lambda x: rest(x, c=c), query)
    of_context = -torch.distributions.Normal(0.0, 1.0).log_prob(c).sum()
    torch.testing.assert_close(found, whole - of_context)


def test_reading_does_not_depend_on_the_order():
    net = statistician.Statistician(pixels=16, hidden=8, context=3, latent=2)
    x = torch.rand(5, 16)
    read = [net.guide.context.amortized.propose(rows) for rows in (x, x.flip(0), x[:3])]
    torch.testing.assert_close(read[0], read[1])
    assert (read[0]["c.loc"] - read[2]["c.loc"]).abs().max() > 1e-3
