"""The benchmark of changing shapes runs, and adds up what it times."""

import json

import pytest

from benchmarks import changing_shapes


@pytest.mark.slow
def test_each_engine_trains_and_adapts(tmp_path, capsys):
    path = tmp_path / "changing_shapes.json"
    result = changing_shapes.main(["--quick", "--several", "--json", str(path)])
    assert json.loads(path.read_text())["CPU seconds of adaptation"].keys() == changing_shapes.ENGINES.keys()
    assert all(seconds > 0 for seconds in result["CPU seconds a step in the end"].values())
    assert "12 adapted, again" in capsys.readouterr().out


def test_steps_add_up():
    assert changing_shapes.marked([0.5] * 60) == {20: 10.0, 50: 25.0}
    assert changing_shapes.at_the_end([9.0, 9.0, 1.0, 3.0]) == 2.0
