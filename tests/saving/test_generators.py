"""Random generators go on where they were."""

import random

import numpy as np
import pytest
import torch

from pyrometa import saving


def draws():
    return [
        *torch.rand(3).tolist(),
        *torch.randn(3).tolist(),
        *np.random.standard_normal(3).tolist(),  # noqa: NPY002
        *[random.gauss(0.0, 1.0) for _ in range(3)],
    ]


def test_they_draw_the_same_after_a_file(tmp_path):
    draws()  # of the normal draws numpy and Python keep one for the next call
    saving.write(tmp_path / "a.safetensors", saving.generators(), kind="test")
    expected = draws()
    assert draws() != expected
    saving.set_generators(saving.read(tmp_path / "a.safetensors", kind="test"))
    assert draws() == expected


def test_states_of_more_devices_than_there_are_change_nothing():
    state = saving.generators()
    before = draws()
    saving.set_generators(state)
    with pytest.raises(
        ValueError, match=r"^the generators' states are of 99 CUDA devices and there are \d+: leave the others out"
    ):
        saving.set_generators({**saving.generators(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 99})
    assert draws() == before


def test_those_of_devices_too(monkeypatch):
    """Where there are two, as torch would tell."""
    states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
    put_back = {}
    for name, function in {
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "get_rng_state_all": lambda: states,
        "set_rng_state": lambda state, device: put_back.update({device: state}),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    saving.set_generators(saving.generators())
    assert put_back == {0: states[0], 1: states[1]}
