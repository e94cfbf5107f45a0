"""Compile recorded graphs: in a process of its own a script, which ``background`` runs on a folder.

It imports nothing of the package, so that it starts quickly, prints nothing, and ends when its parent does.
"""

import importlib
import json
import operator
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Compile the graphs of ``graphs.json`` to ``0.artifact``, ``1.artifact`` and so on, or say why not."""
    told = json.loads((folder / "graphs.json").read_text())
    if hasattr(os, "killpg"):
        threading.Thread(target=_end_with, args=(told["parent"],), daemon=True).start()
    sys.path[:] = told["path"]
    try:
        for i, graph in enumerate(told["graphs"]):
            _compile(graph, told, folder / f"{i}.artifact")
    except Exception as error:
        (folder / "refused.txt").write_text(f"{type(error).__name__}: {error}".splitlines()[0])


def _end_with(parent: int) -> None:
    """End this process, and the compiler that it may have started, as soon as another is its parent."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _compile(told: dict[str, Any], settings: dict[str, Any], path: Path) -> None:
    compile_graph = getattr(importlib.import_module(settings["module"]), settings["function"])
    import torch

    torch.set_num_threads(settings["threads"])
    torch.use_deterministic_algorithms(settings["deterministic"])
    inputs = [_zeros(torch, *told_input) for told_input in told["inputs"]]
    compiled(compile_graph, told["nodes"], inputs, settings["threads"]).save(path=str(path))


def compiled(compile_graph: Callable[..., Any], told: list[Any], inputs: Sequence[Any], threads: int) -> Any:
    """What torch's ``standalone_compile`` makes of the nodes of a graph, or finds on disk, for inputs like these."""
    import torch

    # named, since torch 2.9 does not tell code for other numbers of threads apart
    options = {"config_patches": {"cpp.threads": threads, "compile_threads": 1}}
    with torch.no_grad():
        return compile_graph(_graph(torch, told), list(inputs), dynamic_shapes="from_example_inputs", options=options)


def _zeros(torch: Any, shape: list[int], strides: list[int], dtype: str) -> Any:
    return torch.empty_strided(shape, strides, dtype=getattr(torch, dtype)).zero_()


def _graph(torch: Any, told: list[Any]) -> Any:
    graph, nodes = torch.fx.Graph(), dict[str, Any]()
    for op, name, target, args, kwargs in told:
        function = _function(torch, target) if op == "call_function" else target
        given = tuple(_value(torch, arg, nodes) for arg in args), _value(torch, kwargs, nodes)
        nodes[name] = graph.create_node(op, function, *given, name=name)
    return torch.fx.GraphModule(torch.nn.Module(), graph)


def _function(torch: Any, target: str) -> Any:
    where, _, name = target.partition(".")
    found: Any = {"operator": operator, "torch": torch, "ops": torch.ops}[where]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _value(torch: Any, told: Any, nodes: dict[str, Any]) -> Any:
    if isinstance(told, list):
        tag, *parts = told
        if tag == "node":
            return nodes[parts[0]]
        if tag == "torch":
            return getattr(torch, parts[0])
        if tag == "device":
            return torch.device(parts[0])
        values = [_value(torch, part, nodes) for part in parts]
        return slice(*values) if tag == "slice" else tuple(values) if tag == "tuple" else values
    if isinstance(told, dict):
        return {name: _value(torch, part, nodes) for name, part in told.items()}
    return told


if __name__ == "__main__":
    main(Path(sys.argv[1]))
