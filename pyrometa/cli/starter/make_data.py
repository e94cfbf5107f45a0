"""Makes the data: schools to learn from, and new ones to adapt to. Put your own Parquet files in their place."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def table(schools, first, rng):
    """A row a pupil, sorted by school: 4 to 12 pupils each."""
    sizes = rng.integers(4, 13, schools)
    school = np.repeat(np.arange(first, first + schools), sizes)
    slope, offset = rng.normal(1.0, 0.5, schools), rng.normal(4.0, 1.0, schools)
    hours = rng.uniform(0.0, 4.0, len(school))
    grade = offset[school - first] + slope[school - first] * hours + rng.normal(0.0, 1.0, len(school))
    return pa.table({"school": school, "hours": hours, "grade": grade})


def write(folder):
    """Write ``train.parquet`` and ``new.parquet``."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(200, 0, rng), folder / "train.parquet")
    pq.write_table(table(100, 1000, rng), folder / "new.parquet")


if __name__ == "__main__":
    write(Path(__file__).parent / "data")
