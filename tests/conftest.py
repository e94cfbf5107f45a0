"""Every program, under both settings of module_local_params."""

import pyro
import pytest
from programs import PROGRAMS


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
