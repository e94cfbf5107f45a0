"""Variances of gradients under each kind of noise are measured, and told as multiples."""

import json

from benchmarks import noise_points


def test_noise_points_gives_a_row_a_program(tmp_path, capsys):
    path = tmp_path / "noise_points.json"
    result = noise_points.main(["--quick", "--programs", "regression", "--json", str(path)])
    found = json.loads(path.read_text())["programs"]["regression"]["8"]
    assert found == result["programs"]["regression"][8]
    assert found["antithetic"]["means"] < 1e-9 * found["random"]["means"]  # linear in the noise
    assert "sobol, shared: meta-gradient" in capsys.readouterr().out
