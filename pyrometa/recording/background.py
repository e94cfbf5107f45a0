"""Compile recorded graphs by torch's ``standalone_compile`` in another process, while this one goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pyrometa.internals import STANDALONE_COMPILE, loaded_artifact
from pyrometa.recording.compiled import Artifact

_SCRIPT = Path(__file__).with_name("compiler.py")


class CannotCompileError(Exception):
    """There is no compiled form."""


class Compilation:
    """Graphs that are compiled in a process that this starts. It ends, and its files go, when this does.

    Args:
        graphs: as :func:`pyrometa.recording.told_graphs.told` tells them.

    Raises:
        CannotCompileError: no such process can be started.
    """

    def __init__(self, graphs: Sequence[Any]) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise CannotCompileError("there is no Python to start")
        self._count = len(graphs)
        self._folder = Path(tempfile.mkdtemp(prefix="pyrometa-"))
        module, function = STANDALONE_COMPILE
        told = {
            "parent": os.getpid(),
            "path": [str(Path(part).absolute()) for part in sys.path],
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "module": module,
            "function": function,
            "graphs": graphs,
        }
        (self._folder / "graphs.json").write_text(json.dumps(told))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-W", "ignore", str(_SCRIPT), str(self._folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is this process's to answer, which may go on
        )
        self.end = weakref.finalize(self, _end, self._process, self._folder, os.getpid())

    def artifacts(self) -> list[Artifact]:
        """What was compiled, of each graph, as torch's ``CompiledArtifact``, as soon as all are.

        Raises:
            CannotCompileError: with the reason why there is nothing.
        """
        code = self._process.wait()
        refused = self._folder / "refused.txt"
        if refused.exists():
            raise CannotCompileError(refused.read_text())
        if code:
            raise CannotCompileError(f"the compiler ended with exit code {code}")
        return [loaded_artifact(str(self._folder / f"{i}.artifact")) for i in range(self._count)]


def _end(process: subprocess.Popen[bytes], folder: Path, owner: int) -> None:
    if os.getpid() != owner:  # a fork has no say in it
        return
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
