"""Run programs without a trace of it in the param store."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro


@contextmanager
def store_left_as_it_is() -> Iterator[None]:
    """Within, programs read the store's values; what they write there is gone afterwards."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield
