"""An adapter as Ray Data's map_batches takes it, with two workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging

import numpy as np
import pyarrow as pa
import ray
from adapter_program import made_meta, made_table

import pyrometa as pm

ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
rng = np.random.default_rng(0)
table = made_table(list(rng.integers(3, 9, 100)))
table = table.take(rng.permutation(len(table)))
adapter = pm.Adapter(made_meta(), "user", (["x0", "x1"], "y"), draws=16)
data = ray.data.from_arrow(table).repartition(2, keys=["user"])
found = data.map_batches(adapter, batch_format="pyarrow", batch_size=None, concurrency=2).to_pandas()
expected = adapter(table).to_pandas().sort_values("user").drop(columns="error").to_numpy(float)
found = found.sort_values("user").drop(columns="error").to_numpy(float)
print("groups", len(found), "off by less than 1e-5:", bool(np.abs(found - expected).max() < 1e-5))
"""


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.stdout.splitlines()[-1:] == ["groups 100 off by less than 1e-5: True"], run.stderr
