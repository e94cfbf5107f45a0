"""The experiment of pm.Amortize, run with tiny sizes: that it runs, not what comes out."""

import json
import math

import pytest

from experiments import amortize


@pytest.mark.slow
def test_it_scores_the_proposal_and_each_step(tmp_path):
    results = amortize.main(["--quick", "--only", "mixtures", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert len(results["mixtures"]["losses"]) == 3
    assert all(math.isfinite(loss) for loss in results["mixtures"]["losses"])
