"""Newton steps from three starts, with tiny sizes."""

import json

from experiments import newton_starts


def test_a_row_for_each_start(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    newton_starts.main(["--quick", "--programs", "radon", "--json", str(path)])
    found = json.loads(path.read_text())["radon"]
    assert list(found) == ["default", "pooled", "meta-learned"]
    assert all(len(one["losses"]) == 1 for one in found.values())
    assert "radon, above" in capsys.readouterr().out
