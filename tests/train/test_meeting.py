"""Processes of one start find each other at a store that holds what those before them have left."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

import pyrometa as pm
from pyrometa.train.meeting import meet

LONG = timedelta(seconds=30)


def starts(store, late):
    """The number that each process of a start takes it for, where some come late, by seconds."""

    def come(rank):
        time.sleep(late.get(rank, 0.0))
        return meet(store, rank, 3, LONG)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(come, range(3)))


def test_all_take_the_same_start_whoever_comes_late():
    store = HashStore()
    for start, late in enumerate([{}, {0: 0.3}, {1: 0.3}, {0: 0.2, 2: 0.4}], start=1):
        assert starts(store, late) == [start] * 3


def test_a_start_that_was_broken_off_is_none():
    store = HashStore()
    with pytest.raises(pm.ProcessError, match="process 1 has not come"):
        meet(store, 0, 3, timedelta(seconds=0.1))
    with pytest.raises(pm.ProcessError, match="process 1 waits for the others"):
        meet(store, 1, 3, timedelta(seconds=0.1))
    assert starts(store, {0: 0.3}) == [2] * 3
