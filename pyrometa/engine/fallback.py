"""What happens where a program can't be run as its options ask: a warning and a slower way, or an error."""

from __future__ import annotations

import warnings

from pyrometa.engine.options import Engine, must_be_vectorized
from pyrometa.errors import LoopWarning, UnsupportedProgramError
from pyrometa.explain.source_lines import stacklevel


def fall_back(options: Engine, reason: str, instead: str) -> None:
    """Say once why tasks are run a slower way, or refuse where the options do not admit one.

    Args:
        options: how tasks were to be run.
        reason: why they can't be.
        instead: how they are run, as in ``"run one by one"``.

    Warns:
        LoopWarning: with the reason.

    Raises:
        UnsupportedProgramError: with the reason.
    """
    if must_be_vectorized(options):
        raise UnsupportedProgramError(f"this program can't be vectorised over tasks: {reason}", has_line=True)
    message = f"tasks are {instead}, which is slower: {reason}; Engine(vectorize=False) says it is meant"
    warnings.warn(message, LoopWarning, stacklevel=stacklevel())


def tell_of_dense(reason: str) -> None:
    """Say that weights which were asked for in factors are held dense.

    Args:
        reason: why factors can't hold them.

    Warns:
        LoopWarning: with the reason.
    """
    cure = "Engine(low_rank=False) says it is meant"
    message = f"fast weights are held dense, which is slower: in factors {reason}; {cure}"
    warnings.warn(message, LoopWarning, stacklevel=stacklevel())
