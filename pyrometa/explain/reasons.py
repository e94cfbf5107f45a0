"""Why a program can't be run as it was to be, in words for its author: what, at which line, and the cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pyrometa.errors import ReachError, UnsupportedProgramError, in_short
from pyrometa.explain.source_lines import line_of_error, lines_of_definition
from pyrometa.types import TwoSides

_PRIVATE = "which has a value for each task: leave it a tensor, or compute the number outside and give it as kwargs="
_SHAPES = "has a size that depends on values, which differs between tasks: multiply by a mask or use torch.where"
_BATCHING = {
    "data-dependent control flow": "an if, a while or an assert reads a tensor's value, which differs between tasks: "
    "use torch.where, or check outside of model and guide",
    r"calling \.item\(\) on a Tensor": f".item(), float() or int() reads a tensor, {_PRIVATE}",
    "Cannot access data pointer of Tensor": f".numpy() or .tolist() reads a tensor, {_PRIVATE}",
    "match the broadcast shape|is not possible because there exists a Tensor": "an operation in place writes what "
    "differs between tasks into a tensor that they share: write out of place (x = x | y for x |= y), or make the "
    "tensor from the data (torch.zeros_like)",
    "indexing with a boolean mask": f"indexing with a mask {_SHAPES}",
    r"torch\.masked_select": f"torch.masked_select {_SHAPES}",
    r"vmap over (torch\.\w+) isn't supported": r"\1 reads a tensor's value, which differs between tasks: leave it a "
    "tensor, or check outside of model and guide",
    r"dynamic shape\. Attempted to vmap over aten::(\w+)": rf"torch's \1 {_SHAPES}",
    r"call Tensor\.requires_grad_\(\)": "requires_grad_(), for a gradient within model or guide, has no rule for it: "
    "use torch.func.grad",
    "must override the setup_context staticmethod": "an autograd.Function has no rule for it: give it a setup_context "
    "and generate_vmap_rule = True",
    r"Batching rule not implemented for aten::(\w+)": r"torch's \1 has no rule for it: use another function",
}


_ASKS = re.compile(r"[\s,.;]*(?:If error is occurring|[Pp]lease (?:file|open|shout))")
"""Where a message of torch's goes on to ask for a bug report, which is beside the point here."""


def reason(error: BaseException) -> str:
    """What an exception of torch's or of the program's says, with the cure where it is known."""
    text = str(error) if isinstance(error, RuntimeError) else ""
    for pattern, cure in _BATCHING.items():
        found = re.search(pattern, text)
        if found:
            return f"vmap can't batch this: {found.expand(cure)}"
    return _ASKS.split(in_short(error))[0]


def told(program: TwoSides, error: Exception | str) -> str:
    """A reason, and the line of the program's that gave it: where it failed, else the site's, else its definition."""
    if isinstance(error, str):
        return f"{error} ({_line(program, error)})"
    text = str(error) if isinstance(error, ReachError | UnsupportedProgramError) else reason(error)
    return f"{text} ({line_of_error(error) or _line(program, text)})"


def _line(program: TwoSides, text: str) -> str:
    sites = (line for name, line in program.site_lines.items() if f"site {name!r}" in text)
    return next(sites, None) or f"defined at {lines_of_definition([program.model, program.guide])}"


@contextmanager
def naming_lines(program: TwoSides) -> Iterator[None]:
    """Add to a refusal the line of the program's that it is about, if it names none yet."""
    try:
        yield
    except (ReachError, UnsupportedProgramError) as error:
        if not error.has_line:
            error.args = (told(program, error), *error.args[1:])
            error.has_line = True
        raise
