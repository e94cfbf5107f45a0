"""The results on MNIST, run with tiny sizes on digits, and the parts that their figures hang on."""

import copy
import json
import math

import pyro
import pytest
import torch
from PIL import Image
from scipy.stats import t

from experiments.results import inference_gap, mnist_report, shift, vae_mnist, vae_scores, vae_training
from experiments.results.vae import KINDS, Network
from experiments.results.vae_training import Recipe


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return tmp_path_factory.mktemp("networks")


def told(command, networks, tmp_path, *seeds):
    path = tmp_path / "figures.json"
    arguments = ["--quick", "--seeds", *map(str, seeds), "--out", str(networks), "--json", str(path)]
    result = command.main([*arguments, "--figure", str(tmp_path / "figure.png")])
    found = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert found["seeds"] == list(seeds)
    assert {"torch", "pyro-ppl"} <= set(found["versions"])
    with Image.open(tmp_path / "figure.png") as image:
        assert len(set(image.convert("L").resize((200, 100)).get_flattened_data())) > 5
    return result, found


def test_nats_against_minutes(networks, tmp_path):
    result, found = told(vae_mnist, networks, tmp_path, 0)
    assert found["runs"] == result["runs"]
    assert len(result["runs"]) == 2 * 2  # kinds, budgets
    for one in result["runs"]:
        assert 100 < one["nll"] < one["negative_elbo"] < 600
        assert one["cpu_seconds"] >= 60 * one["minutes"]
    for points in found["summary"].values():
        assert [point["nll"]["half_width"] for point in points.values()] == [None, None]  # of a single seed


def test_gaps_add_up(networks, tmp_path):
    _, found = told(inference_gap, networks, tmp_path, 0)
    assert set(found["gaps"]) == {*KINDS, "mean field, refined", "mean field, training images"}
    for gaps in found["gaps"].values():
        parts = gaps["approximation"]["mean"] + gaps["amortisation"]["mean"]
        assert parts == pytest.approx(gaps["inference"]["mean"], abs=1e-3)
        assert gaps["inference"]["mean"] == pytest.approx(gaps["negative ELBO"]["mean"] - gaps["NLL"]["mean"], abs=1e-3)


def test_shifted_images_are_told_apart(networks, tmp_path):
    _, found = told(shift, networks, tmp_path, 0)
    assert list(found["areas"]["mnist"]) == ["turned 30°", "turned 90°", "noisy", "Fashion-MNIST"]
    assert found["areas"]["mnist"]["Fashion-MNIST"]["negative ELBO"]["mean"] > 0.9  # negatives of digits stand in
    for figures in found["figures"]["mnist"].values():
        assert figures["gain of five steps"]["mean"] == pytest.approx(
            figures["negative ELBO"]["mean"] - figures["negative ELBO after five steps"]["mean"], abs=1e-6
        )


@pytest.mark.parametrize("kind", ["mean field", "flow"])
def test_log_weights_are_those_of_the_densities(kind, monkeypatch):
    monkeypatch.setattr(vae_scores, "IMAGES", 2)
    network = Network(kind, hidden=6, latent=3).ready()
    x = torch.rand(4, 784).round()
    proposal = vae_scores.proposed(network.guide, x)
    torch.manual_seed(0)
    found = vae_scores.log_weights(network, proposal, x, 3)
    torch.manual_seed(0)
    for rows in (slice(0, 2), slice(2, 4)):
        part = {name: value[rows] for name, value in proposal.items()}
        with pyro.plate("draws", 3, dim=-2):
            z = vae_scores.sampling(network, part)()["z"].detach()
        (posterior,) = network.guide.posteriors.values()
        q = posterior({name.split(".")[-1]: value for name, value in part.items()})
        log_q = getattr(q, "dist", q).log_prob(z)  # the flow's by its inverse, not by what it kept of the draw
        log_p = pyro.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + network.decoder(z).log_prob(x[rows])
        torch.testing.assert_close(found[:, rows], (log_p - log_q).double(), rtol=1e-5, atol=1e-4)


def test_a_branch_leaves_the_trunk_as_it_is_and_files_keep_it(tmp_path):
    images = torch.rand(50, 784)
    recipe = Recipe("mnist", "semi-amortised", 0, 1e-2, 50, hidden=4, latent=2, batch=10)
    torch.manual_seed(0)
    trunk = vae_training.started(recipe)
    trunk.go(images, 0.02, recipe)
    before = copy.deepcopy(trunk.network.state_dict())
    branch = copy.deepcopy(trunk)
    branch.go(images, trunk.seconds + 0.05, recipe, ends=trunk.seconds + 0.05)
    assert not list(pyro.get_param_store())  # through which the two would share their parameters
    after = trunk.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = branch.network.state_dict()
    assert all(not torch.equal(before[name], moved[name]) for name in before if not name.endswith("bias"))

    path = tmp_path / "network.safetensors"
    vae_training.save(vae_training.Trained(branch.network, branch.steps, branch.seconds), recipe, path)
    again = vae_training.loaded(recipe, path)
    assert (again.steps, again.seconds) == (branch.steps, branch.seconds)
    assert all(torch.equal(value, moved[name]) for name, value in again.network.state_dict().items())
    with pytest.raises(ValueError, match="another batch"):
        vae_training.loaded(Recipe("mnist", "semi-amortised", 0, 1e-2, 50, hidden=4, latent=2, batch=20), path)


@pytest.mark.parametrize("seeds", range(2, 11))
def test_the_interval_over_seeds_is_students(seeds):
    found = torch.arange(seeds).double()
    expected = t.ppf(0.975, seeds - 1) * found.std().item() / math.sqrt(seeds)
    assert mnist_report.over_seeds(found.tolist())["half_width"] == pytest.approx(expected, rel=3e-4)


def test_figures_over_seeds_and_images():
    found = mnist_report.over_seeds_and_images([torch.tensor([0.0, 2.0]), torch.tensor([2.0, 4.0])])
    assert found["mean"] == 2.0
    assert found["image_error"] == pytest.approx(1.0)
    assert mnist_report.over_seeds([1.0])["half_width"] is None


def test_the_area_under_the_curve():
    home, away = torch.tensor([0.0, 1.0, math.inf]), torch.tensor([1.0, 2.0])
    assert shift.area(home, away) == pytest.approx((1 + 0.5 + 1 + 1) / 6)
    assert shift.area(home, home) == 0.5
