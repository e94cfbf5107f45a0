"""A recipe that works, and command lines that are run in this process."""

import sys

import pytest

from pyrometa.cli.running import run

RECIPE = """
model = "recipe_program:model"
guide = "AutoNormal"

[optim]
name = "Adam"
lr = 0.05

[inner]
name = "SGD"
lr = 0.02
learn = "layer"

[meta]
steps = 2
reduction = "mean"

[tasks]
source = "recipe_program:make_tasks"

[trainer]
max_steps = 4
validate_every = 2
progress = false
out = "run"

[adapter]
group = "user"
columns = ["x", "y"]
draws = 16
"""


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """A recipe's folder goes onto Python's path, and its modules among those that are there: here only for a test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a recipe."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys):
    """Runs a command line: its exit code, and what it has written on both outputs."""

    def running(*arguments):
        capsys.readouterr()
        code = run([str(part) for part in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return running
