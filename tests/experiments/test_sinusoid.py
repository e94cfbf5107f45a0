"""The sinusoid experiment, run with tiny sizes."""

import json

import pyro
import pytest
import torch
from PIL import Image

from experiments import sinusoid


def test_learns_and_writes_metrics_and_figure(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    returned = sinusoid.main(["--quick", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"metrics.json", "sinusoid.png"}
    mse = json.loads((out / "metrics.json").read_text())["mse"]
    assert mse == returned["mse"]
    assert list(mse) == ["0", "1", "10"]
    assert mse["1"]["mean"] < mse["0"]["mean"] - 0.1  # one step of an untrained network moves it by about 0.05
    assert "1 steps: mean squared error" in capsys.readouterr().out
    with Image.open(out / "sinusoid.png") as image:
        assert len(set(image.convert("RGB").resize((360, 108)).get_flattened_data())) > 50


@pytest.mark.slow
def test_one_seed_gives_one_run(tmp_path):
    runs = []
    for seed in ("1", "1", "2"):
        pyro.clear_param_store()
        arguments = ["--algorithm", "meta_sgd", "--iterations", "20", "--test-tasks", "10", "--seed", seed]
        runs.append(sinusoid.main([*arguments, "--out", str(tmp_path)])["mse"])
    assert runs[0] == runs[1] != runs[2]


def test_the_loss_is_the_mean_squared_error_and_half_of_log_pi():
    meta = sinusoid.algorithm("maml")
    x, y = torch.randn(2, 5, 1), torch.randn(2, 5, 1)
    losses = meta.evaluate((x, y), (x, y), (0,))[0] - sinusoid.half_log_pi()
    expected = (meta.model.net(x) - y).square().mean((1, 2))
    torch.testing.assert_close(losses, expected)
