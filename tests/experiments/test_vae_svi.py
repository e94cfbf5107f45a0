"""The VAE experiment, run with tiny sizes."""

import json

import pyro
import pytest
from PIL import Image

from experiments import vae_svi

TINY = ["--hidden", "16", "--latent", "2", "--batch-size", "100", "--iwae-samples", "20"]


def test_writes_metrics_and_pictures_and_learns(tmp_path):
    returned = vae_svi.main([*TINY, "--epochs", "2", "--out", str(tmp_path / "new" / "out")])
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {"metrics.json", "reconstructions.png", "samples.png"}
    epochs = json.loads((out / "metrics.json").read_text())["epochs"]
    assert epochs == returned
    assert [set(epoch) for epoch in epochs] == [{"test_elbo", "iwae_nll", "seconds"}] * 2
    assert -543 < epochs[0]["test_elbo"] < epochs[1]["test_elbo"] < -100  # 784 log 2 = 543: a coin a pixel
    for epoch in epochs:
        assert 100 < epoch["iwae_nll"] < -epoch["test_elbo"]
        assert epoch["seconds"] > 0
    for name, rows in (("reconstructions.png", 8), ("samples.png", 10)):
        with Image.open(out / name) as image:
            assert image.size == (10 * 30 + 2, rows * 30 + 2)
            assert len(set(image.convert("L").get_flattened_data())) > 20


def test_one_seed_gives_one_run(tmp_path):
    runs = []
    for seed in ("1", "1", "2"):
        pyro.clear_param_store()
        epochs = vae_svi.main([*TINY, "--epochs", "1", "--seed", seed, "--out", str(tmp_path)])
        runs.append(epochs[0]["test_elbo"])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.slow
def test_five_default_epochs_pass_190_nats(tmp_path):
    epochs = vae_svi.main(["--out", str(tmp_path), "--iwae-samples", "1"])
    assert len(epochs) == 5
    assert epochs[-1]["test_elbo"] > -190


def test_the_files_of_mnist_need_a_root(capsys):
    with pytest.raises(SystemExit):
        vae_svi.main(["--data", "mnist"])
    assert "pass --root DIR" in capsys.readouterr().err
