"""The experiments on Omniglot, run with tiny counts on digits that stand in for characters."""

import argparse
import json
import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image

from experiments import omniglot_generate, semi_amortized_steps, semi_amortized_vae
from pyrometa.guides import AmortizedGuide


def written(out):
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    return json.loads((out / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def check_figure(path):
    with Image.open(path) as image:
        assert min(image.size) > 400
        assert len(set(image.convert("L").resize((200, 100)).get_flattened_data())) > 5


@pytest.mark.parametrize(
    ("task", "adapt"),
    [("alphabet", "both"), ("character", "guide"), pytest.param("character", "both", marks=pytest.mark.slow)],
)
def test_generate_compares_the_starts(tmp_path, task, adapt, capsys):
    arguments = ["--quick", "--task", task, "--adapt", adapt, "--out", str(tmp_path)]
    result = omniglot_generate.main(arguments)
    saved = written(tmp_path)
    assert saved["curves"] == result["curves"]
    assert set(saved["curves"]) == {"random", "pooled", "pooled in five", "meta"}
    for start in ("random", "pooled"):
        curve = [point["mean"] for point in saved["curves"][start].values()]
        assert curve[-1] < curve[0] < 650  # adaptation lowers the loss; 784 log 2 = 543 is a coin a pixel
    sides = {name.split(".")[0] for name in saved["learned rates"]}
    assert sides == ({"guide", "model"} if adapt == "both" else {"guide"})
    assert re.search(r"(worse|better).* than five from the pooled VAE", capsys.readouterr().out)
    check_convergence(saved["convergence"])
    assert any(curve["seconds"] for name, curve in saved["convergence"]["curves"].items() if name.endswith("Adam"))
    for start, name in (("random", "random start, Adam"), ("meta", "meta-learned start and rates")):
        first = saved["curves"][start]["0"]["mean"]
        assert saved["convergence"]["curves"][name]["losses"][0] == pytest.approx(first, abs=1e-3)
    for name in ("adaptation.png", "reconstructions.png"):
        check_figure(tmp_path / name)


def check_convergence(result):
    """Nothing is below converged SVI, and a start is there when its curve is."""
    lowest = []
    for name, curve in result["curves"].items():
        there = [k for k, loss in zip(curve["at"], curve["losses"], strict=True) if loss <= result["target"] + 0.005]
        assert curve["steps"] == (there[0] if there else None), name
        if name.endswith("Adam"):
            lowest.append(min(curve["losses"]))
            assert curve["seconds"] == (there[0] * result["step seconds"] if there else None)
    assert result["target"] <= min(lowest)


def test_the_semi_amortized_vae_reports_the_gaps(tmp_path):
    result = semi_amortized_vae.main(["--quick", "--out", str(tmp_path)])
    assert written(tmp_path)["gaps"] == result["gaps"]
    assert set(result["gaps"]) == {"amortised", "amortised, refined", "semi-amortised", "amortised, longer"}
    for gaps in result["gaps"].values():
        total = gaps["approximation"]["mean"] + gaps["amortisation"]["mean"]
        assert total == pytest.approx(gaps["negative ELBO"]["mean"] - gaps["NLL"]["mean"], abs=1e-3)
    check_convergence(result["steps"])
    curves = result["steps"]["curves"]
    assert curves["learned refinement"]["losses"][0] == curves["semi-amortised encoder, Adam"]["losses"][0]
    for name in ("prior, Adam", "encoder, Adam"):
        assert curves[name]["losses"][-1] < curves[name]["losses"][0]
    for name in ("gaps.png", "steps.png"):
        check_figure(tmp_path / name)


def test_refinement_by_adam_finds_the_posterior_of_each_datum():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.tensor([[-2.0], [0.5], [3.0]])
    encoder = AmortizedGuide(model, torch.nn.Linear(1, 4))
    prior = {name: torch.zeros_like(value) for name, value in encoder.propose(x).items()}
    svi, samples = semi_amortized_steps.svi, argparse.Namespace(samples=4000)
    losses = [svi(model, encoder, prior, x, 0.1, steps, samples) for steps in (0, 200)]
    at_the_prior = 0.5 * math.log(2 * math.pi) + 0.5 * (x**2 + 1).mean().item()
    exact = -dist.Normal(0.0, 2**0.5).log_prob(x).mean().item()
    assert losses == pytest.approx([at_the_prior, exact], abs=0.03)
    assert not list(pyro.get_param_store())


def test_omniglot_needs_its_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True"):
        omniglot_generate.main(["--root", str(tmp_path), "--out", str(tmp_path)])
