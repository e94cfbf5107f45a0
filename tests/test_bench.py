"""The strict bench of the root's conftest.py fails each kind of leak and keeps it from the next test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKS = {
    "Pyro settings": "pyro.settings.set(module_local_params=True)",
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "thread count": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "grad mode": "torch.set_grad_enabled(False)",
    "warnings filters": "warnings.simplefilter('ignore')",
    "Pyro handler stack": "pyro.poutine.trace().__enter__()",
}

HEADER = """
import warnings
import pyro
import torch

def is_clean():
    settings = pyro.settings.get()
    return (
        not settings["module_local_params"]
        and torch.get_default_dtype() == torch.float32
        and torch.is_grad_enabled()
        and not pyro.get_param_store().keys()
        and not pyro.poutine.runtime._PYRO_STACK
        and warnings.filters[0][0] != "ignore"
        and torch.initial_seed() == 0
    )
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of one pytest run over a leaking test of each kind, each followed by one that is clean."""
    folder = tmp_path_factory.mktemp("bench")
    shutil.copy(CONFTEST, folder / "conftest.py")
    body = HEADER
    for name, leak in LEAKS.items():
        key = name.replace(" ", "_")
        body += f"\ndef test_leak_{key}():\n    {leak}\n"
        body += f"\ndef test_after_{key}():\n    assert is_clean()\n"
    body += "\ndef test_leak_store():\n    pyro.param('left', torch.ones(()))\n    torch.manual_seed(7)\n"
    body += "\ndef test_after_store():\n    assert is_clean()\n"
    body += '\ndef documented():\n    """\n    >>> torch.set_default_dtype(torch.float64)\n    """\n'
    (folder / "test_leaks.py").write_text(body)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --doctest-modules\n")
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", "test_leaks.py"]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "COLUMNS": "400"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_fails_by_its_name(report, name):
    key = name.replace(" ", "_")
    assert re.search(rf"^ERROR test_leaks.py::test_leak_{key} - .*leaks global state: {name}: ", report, re.M)


@pytest.mark.parametrize("name", [*LEAKS, "store"])
def test_the_next_test_starts_clean(report, name):
    assert f"PASSED test_leaks.py::test_after_{name.replace(' ', '_')}" in report


def test_a_doctest_that_leaks_fails(report):
    assert re.search(r"^ERROR test_leaks.py::test_leaks.documented - .*default dtype", report, re.M)
