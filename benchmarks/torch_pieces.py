"""A recorded meta-step simplified by pyrometa and by torch's own passes: nodes left, time of a replay, agreement.

Torch's passes get the graph made functional, which they ask for, and that is not in their time.

python -m benchmarks.torch_pieces --json bench/torch_pieces.json
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch._inductor.constant_folding import constant_fold
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

import pyrometa as pm
from benchmarks.measure import interleaved, one_core, table, write_json
from benchmarks.workloads import Workload, local_params, workload
from pyrometa.engine.batch_function import BatchFunction
from pyrometa.engine.plan import make_plan
from pyrometa.recording.record import trace
from pyrometa.recording.simplify import simplified

Inputs = Sequence[Tensor]
Pass = Callable[[GraphModule, Inputs], GraphModule]
TOLERANCE = 1e-5  # relative, in single precision


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Simplify, check, time, print and write."""
    args = parse(argv)
    work = workload("B", 25)
    with one_core(), torch.random.fork_rng(devices=[]):
        result = run(work.quick() if args.quick else work, args.rounds)
    print(report(result))
    write_json(args.json, result)
    return result


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/torch_pieces.json"), help="where the figures go")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, times nothing of use")
    return parser.parse_args(argv)


def run(work: Workload, rounds: int) -> dict[str, Any]:
    """Figures of the graph of one workload, after each way to simplify it."""
    graph, inputs = recorded(work)
    with torch.no_grad():
        functional = make_fx(functionalize(graph))(*inputs)
        inductor(copy.deepcopy(functional), inputs)  # loads and registers its patterns
        ours = in_turn({"pyrometa": simplified, "pyrometa, then torch's": torch_own}, graph, inputs)
        theirs = in_turn({**TORCH, "torch's, then pyrometa": simplified}, functional, inputs)
        made = {"as recorded": (graph, 0.0), **theirs, **ours}
        errors = {name: error(one, graph, inputs) for name, (one, _) in made.items()}
        timed = interleaved({name: partial(one, *inputs) for name, (one, _) in made.items()}, rounds)
    return {
        "workload": work.described(),
        "nodes": {name: len(one.graph.nodes) for name, (one, _) in made.items()},
        "milliseconds": {name: 1e3 * statistics.median(times) for name, times in timed.items()},
        "pass_seconds": {name: seconds for name, (_, seconds) in made.items()},
        "relative_errors": errors,
    }


def recorded(work: Workload) -> tuple[GraphModule, list[Tensor]]:
    """The graph of a meta-step before it is simplified, and what it was recorded on."""
    problem = work.build()
    settings: Any = {"inner": pm.SGD(work.inner_lr), "steps": work.steps, "reduction": "mean"}
    meta = pm.MetaSVI(problem.model, problem.guide, pyro.optim.Adam({"lr": work.outer_lr}), **settings)
    with local_params():
        meta.init(problem.support)
        adaptation, (batch,) = meta._problem(problem.support, problem.query, None, work.steps)
        step = BatchFunction(adaptation, batch, meta.meta_gradient, make_plan(adaptation, batch, "auto"))
        inputs = [value.clone() for value in step.tensors()]
        traced, _ = trace(step.on, inputs, step.parameters)
    return GraphModule(traced, traced.graph), inputs


def in_turn(passes: Mapping[str, Pass], graph: GraphModule, inputs: Inputs) -> dict[str, tuple[GraphModule, float]]:
    """The graph after each pass on the one before, and the CPU seconds of all passes so far."""
    made: dict[str, tuple[GraphModule, float]] = {}
    seconds = 0.0
    for name, one in passes.items():
        graph, began = copy.deepcopy(graph), time.process_time()
        graph = one(graph, inputs)
        seconds += time.process_time() - began
        made[name] = graph, seconds
    return made


def common_terms(graph: GraphModule, inputs: Inputs) -> GraphModule:
    graph.graph.eliminate_dead_code()
    return GraphModule(graph, fx_graph_cse(graph.graph))


def constants(graph: GraphModule, inputs: Inputs) -> GraphModule:
    constant_fold(graph)
    return graph


def inductor(graph: GraphModule, inputs: Inputs) -> GraphModule:
    """Its passes on graphs, without its code generation, and the common terms that they bring to light."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    FakeTensorProp(graph, mode).propagate(*inputs)
    with V.set_fake_mode(mode):
        graph = joint_graph_passes(graph)
        post_grad_passes(graph, True)
    return common_terms(graph, inputs)


TORCH: dict[str, Pass] = {
    "torch: dead code, common terms": common_terms,
    "and constants": constants,
    "and inductor's": inductor,
}


def torch_own(graph: GraphModule, inputs: Inputs) -> GraphModule:
    return reduce(lambda made, one: one(made, inputs), TORCH.values(), graph)


def error(graph: GraphModule, reference: GraphModule, inputs: Inputs) -> float:
    """The largest of ``|a - b| / max |b|`` over results, on other inputs than the graph was recorded on."""
    others = [1.01 * value if value.is_floating_point() else value for value in inputs]
    pairs = zip(graph(*others), reference(*others), strict=True)
    worst = max(((a - b).abs().max() / b.abs().max()).nan_to_num(torch.inf).item() for a, b in pairs)
    if worst > TOLERANCE:
        raise ArithmeticError(f"a simplified graph gives other numbers, by {worst:.1e} (relative)")
    return worst


def report(result: Mapping[str, Any]) -> str:
    """The table."""
    rows = [
        (name, str(nodes), f"{result['milliseconds'][name]:.1f}", f"{result['pass_seconds'][name]:.1f}")
        for name, nodes in result["nodes"].items()
    ]
    return table(("graph", "nodes", "CPU ms a replay", "s to simplify"), rows)


if __name__ == "__main__":
    main()
