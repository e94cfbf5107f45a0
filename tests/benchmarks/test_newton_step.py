"""A Newton step is timed in steps of gradient descent."""

import json

from benchmarks import newton_step


def test_newton_step_gives_a_row_a_program(tmp_path, capsys):
    path = tmp_path / "newton_step.json"
    result = newton_step.main(["--quick", "--cases", "regression, 4 numbers", "--json", str(path)])
    assert json.loads(path.read_text())["runs"] == result["runs"]
    (run,) = result["runs"]
    assert (run["case"], run["engine"], len(run["seconds"]["Newton"])) == ("regression, 4 numbers", "vectorised", 1)
    assert "regression, 4 numbers, vectorised" in capsys.readouterr().out


def test_seconds_of_one_step_are_those_that_more_steps_add():
    seconds = {"SGD 1": [1.0, 2.0], "SGD 4": [4.0, 11.0]}
    assert newton_step.per_step(seconds, "SGD") == [1.0, 3.0]
