"""``python -m pyrometa``, as under ``torchrun -m pyrometa train RECIPE``."""

from pyrometa.cli import main

if __name__ == "__main__":
    main()
