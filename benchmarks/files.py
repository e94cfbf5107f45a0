"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(path: Path, write_to: Callable[[Path], object]) -> None:
    """Let a function write to a temporary file, which then takes the path's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_to(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    text = json.dumps(result, indent=2, default=str) + "\n"
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_figure(path: Path, figure: Figure, dpi: int = 150) -> None:
    write(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dpi))
