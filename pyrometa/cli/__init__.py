"""The ``pyrometa`` command."""

import sys
from importlib.util import find_spec

__all__ = ["main"]

NEEDED = ("tqdm", "typer")


def main() -> None:
    """The console entry point; exits with the cure where the extra is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(f'the pyrometa command needs {", ".join(missing)}: pip install "pyrometa[cli]"\n')
        sys.exit(2)
    from pyrometa.cli.running import run

    sys.exit(run(sys.argv[1:]))
