"""NumPyro's SVI with AutoNormal from the same start: ``jit`` of ``vmap`` over tasks, Adam's steps in one loop."""

from functools import partial
from typing import Any

import jax
import numpyro
from numpyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO, init_to_value
from numpyro.infer.autoguide import AutoNormal

from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program
from benchmarks.peers.jax_programs import JaxProgram


def runs(program: Program, at: list[int]) -> list[Run]:
    """A run for each of Adam's rates."""
    return [_run(JaxProgram(program), rate, at) for rate in program.rates]


def _run(jaxed: JaxProgram, rate: float, at: list[int]) -> Run:
    program = jaxed.program
    elbo = TraceMeanField_ELBO if type(program.problem.elbo).__name__ == "TraceMeanField_ELBO" else Trace_ELBO
    transforms = jaxed.transforms()
    values = {name: transforms[name](x) for name, x in jaxed.start.items()}
    guide = AutoNormal(jaxed.model, init_loc_fn=init_to_value(values=values), init_scale=float(jaxed.scale[0]))
    inference = SVI(jaxed.model, guide, numpyro.optim.Adam(rate), elbo(program.problem.elbo.num_particles))
    inference.init(jax.random.PRNGKey(0), *(x[0] for x in jaxed.buckets[0].data))

    @jax.jit
    def begin(keys: jax.Array, data: Any) -> Any:
        return jax.vmap(lambda key, task: inference.init(key, *task))(keys, data)

    @jax.jit
    def go(state: Any, data: Any, steps: jax.Array) -> Any:
        step = jax.vmap(lambda one, task: inference.update(one, *task)[0])
        return jax.lax.fori_loop(0, steps, lambda _, state: step(state, data), state)

    def all_begin() -> list[Any]:
        keys = jax.random.split(jax.random.PRNGKey(1), len(jaxed.buckets))
        states = [
            begin(jax.random.split(key, len(b.index)), b.data) for key, b in zip(keys, jaxed.buckets, strict=True)
        ]
        return jax.block_until_ready(states)

    def all_go(states: list[Any], steps: int) -> list[Any]:
        return jax.block_until_ready([go(s, b.data, steps) for s, b in zip(states, jaxed.buckets, strict=True)])

    states, cold_begin = timed(all_begin)
    _, cold_go = timed(lambda: all_go(states, 1))
    states, warm = timed(all_begin)
    _, step = timed(lambda: all_go(states, 1))
    tasks, points, done, seconds = len(program.problem.tasks), [], 0, 0.0
    for steps in at:
        states, some = timed(partial(all_go, states, steps - done))
        done, seconds = steps, seconds + (some if steps else 0.0)
        found = [inference.get_params(state) for state in states]
        loc, scale = (
            jaxed.gathered([jaxed.flat({s.name: p[f"{s.name}_auto_{part}"] for s in jaxed.sites}) for p in found])
            for part in ("loc", "scale")
        )
        points.append(Point(steps, (warm + seconds) / tasks, Normals(loc, scale)))
    return Run(points, cold=cold_begin + cold_go - warm - step, note=f"rate {rate}")
