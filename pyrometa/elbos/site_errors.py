"""Errors that name the site where they arose."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyrometa.errors import UnsupportedProgramError
from pyrometa.explain.reasons import reason


@contextmanager
def naming_sites() -> Iterator[None]:
    """Raise what torch can't do at a sample site as an error that names the site.

    Raises:
        UnsupportedProgramError: with the site, its distribution and torch's own reason.
    """
    try:
        yield
    except RuntimeError as error:
        site = _site(error)
        if site is None:
            raise
        raise UnsupportedProgramError(
            f"site {site['name']!r} ({type(site['fn']).__name__}): {reason(error)}"
        ) from error


def _site(error: BaseException) -> Any:
    """The sample site that was being drawn or scored, which Pyro's frames and ours hold."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        for name in ("msg", "site"):
            held = frame.f_locals.get(name)
            if isinstance(held, dict) and held.get("type") == "sample":
                return held
    return None
