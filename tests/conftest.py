"""Every program, under both settings of module_local_params; and all of it on another device, if that is asked for."""

import pyro
import pytest
import torch
from programs import PROGRAMS


def pytest_addoption(parser):
    parser.addoption("--device", help="where tensors are made, such as cuda: for the tests that are marked gpu")


def pytest_configure(config):
    if config.getoption("--device"):
        torch.set_default_device(config.getoption("--device"))


@pytest.fixture(params=[False, True], ids=["store", "local"])
def module_local_params(request):
    with pyro.settings.context(module_local_params=request.param):
        yield request.param


@pytest.fixture(params=PROGRAMS, ids=lambda p: p.__name__)
def make(request, module_local_params):
    return request.param


@pytest.fixture
def case(make):
    return make()
