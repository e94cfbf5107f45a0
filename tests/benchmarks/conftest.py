"""What is timed here runs once: figures are not what the tests are about."""

import pytest

from benchmarks import measure


@pytest.fixture(autouse=True)
def timed_once(monkeypatch):
    monkeypatch.setattr(measure, "_LEAST", 0.0)
