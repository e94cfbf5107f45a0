"""Every algorithm, under both settings of module_local_params."""

import pyro
import pytest
from algorithm_rows import ROWS


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


@pytest.fixture(params=[False, True], ids=["store", "local"])
def module_local_params(request):
    with pyro.settings.context(module_local_params=request.param):
        yield request.param
