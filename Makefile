# Everything runs in .venv, built by uv from pyproject.toml alone.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
RUN := $(UV) run --no-sync
OUT ?= demo

.PHONY: setup demo test test-slow lint format docs bench clean

setup: .venv/.done

.venv/.done: pyproject.toml | $(UV)
	$(UV) sync --all-extras --quiet
	@touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv

demo: setup
	$(RUN) pyrometa demo --out $(OUT)

# One thread a worker: on a busy machine OpenMP's threads are slower than one.
test: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -n auto

test-slow: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -m slow -n auto

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: setup
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: setup
	$(RUN) sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

bench: setup
	$(UV) pip install -q --python .venv/bin/python -r benchmarks/requirements.txt
	$(RUN) python -m benchmarks.meta_step --json bench/meta_step.json
	$(RUN) python -m benchmarks.memory --json bench/memory.json
	$(RUN) python -m benchmarks.adapt --json bench/adapt.json
	$(RUN) python -m benchmarks.sinusoid --json bench/sinusoid.json
	$(RUN) python -m benchmarks.bayesian_sinusoid --json bench/bayesian_sinusoid.json
	$(RUN) python -m benchmarks.learned_optimiser --json bench/learned_optimiser.json
	$(RUN) python -m benchmarks.algorithms --json bench/algorithms.json
	$(RUN) python -m benchmarks.scaling --json bench/scaling.json --figure bench/scaling.png

clean:
	rm -rf .venv .uv docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
