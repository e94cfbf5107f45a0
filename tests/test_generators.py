"""Random generators on whatever device: asked and forked alike, and no draw that a default device would break."""

import ast
from pathlib import Path

import pytest
import torch

import pyrometa
from pyrometa import generators

SOURCES = sorted(Path(pyrometa.__file__).parent.rglob("*.py"))
MAKE_NEW_TENSORS = {"rand", "randn", "randint", "randperm", "normal"}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with two GPUs of which the second is in use, by the states of their generators."""
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=1: states[device].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=1: states.__setitem__(device, state))
    return states


def test_a_draw_is_seen_and_undone_on_the_cpu():
    before = generators.states()
    with generators.forked():
        torch.rand(3)
        assert generators.moved_since(before)
    assert not generators.moved_since(before)


def test_a_draw_is_seen_and_undone_on_the_gpu_in_use(gpu):
    before = generators.states()
    with generators.forked():
        gpu[1] = gpu[1] + 1  # as a draw moves it
        assert generators.moved_since(before)
    assert not generators.moved_since(before)


def test_a_gpu_that_nothing_uses_is_not_woken(monkeypatch):
    """It would take memory there, and forked workers could not use it any more."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", None)
    with generators.forked():
        assert len(generators.states()) == 1


def test_a_seed_gives_the_draws_that_it_gives_torch():
    for seed in (0, -3, 2**62):
        torch.manual_seed(seed)
        expected = torch.randn(3)
        generators.seed(seed)
        assert torch.equal(torch.randn(3), expected)


def test_a_seed_is_the_gpus_where_one_is_in_use_and_is_not_kept_for_one_that_is_not(gpu, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    monkeypatch.setattr(torch.cuda, "_lazy_call", None)
    generators.seed(5)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    generators.seed(6)
    assert seeds == [5]


def test_a_new_tensor_from_a_generator_is_where_the_generator_is():
    """Under ``torch.set_default_device("cuda")`` torch refuses a generator of the CPU for a tensor without a device."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in MAKE_NEW_TENSORS:
                given = {keyword.arg for keyword in node.keywords}
                assert "generator" not in given or "device" in given, f"{path}, line {node.lineno}: say device="
