# Everything runs in .venv, built by uv from pyproject.toml alone.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
RUN := $(UV) run --no-sync
OUT ?= demo

.PHONY: setup demo test test-slow test-gpu test-ecosystem test-newest test-oldest test-arviz lint format docs bench soak clean

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
	OMP_NUM_THREADS=1 $(RUN) pytest -n auto --dist worksteal

test-slow: setup
	OMP_NUM_THREADS=1 $(RUN) pytest -m slow -n auto

# The exactness suite once more, with every tensor on a GPU.
test-gpu: setup
	OMP_NUM_THREADS=1 $(RUN) pytest tests -m "gpu and not slow" --device cuda

# The packages' own programs, in an environment of their own; writes docs/what-runs.md.
test-ecosystem: .venv-ecosystem/.done
	OMP_NUM_THREADS=1 PYTHONPATH=. .venv-ecosystem/bin/python -W ignore tests/ecosystem/report.py

.venv-ecosystem/.done: tests/ecosystem/requirements.txt | $(UV)
	$(UV) venv --quiet --clear --python 3.11 .venv-ecosystem
	$(UV) pip install --quiet --python .venv-ecosystem -r tests/ecosystem/requirements.txt
	$(UV) pip install --quiet --python .venv-ecosystem --no-deps tyxe==0.0.2
	@touch $@

# The test suite on what `pip install` gives today, and on the oldest versions that pyproject.toml admits.
test-newest: | $(UV)
	$(call unpinned,newest,3.11,highest)

test-oldest: | $(UV)
	$(call unpinned,oldest,3.10,lowest-direct,-W ignore::DeprecationWarning)

# The diagnostics on ArviZ 1.x, which needs Python 3.12; that of development is 0.23.
test-arviz: | $(UV)
	$(call unpinned,arviz,3.13,highest,tests/diagnostics)

# $(call unpinned,NAME,PYTHON,RESOLUTION,OPTIONS): the tests in an environment of their own, without the pins of development.
define unpinned
	$(UV) venv --quiet --clear --python $(2) .venv-$(1)
	mkdir -p .venv-$(1)/project && sed '/^constraint-dependencies/,/^]/d' pyproject.toml > .venv-$(1)/project/pyproject.toml
	cp -r pyrometa README.md LICENSE .venv-$(1)/project/
	cd .venv-$(1)/project && UV_PROJECT_ENVIRONMENT=../ $(abspath $(UV)) sync --quiet --resolution $(3) \
		--all-extras --no-default-groups --group test
	OMP_NUM_THREADS=1 PYTHONPATH=. .venv-$(1)/bin/python -m pytest -n auto --ignore=tests/test_repository.py $(4)
endef

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
	$(RUN) python -m benchmarks.learned_optimizer --json bench/learned_optimizer.json
	$(RUN) python -m benchmarks.algorithms --json bench/algorithms.json
	$(RUN) python -m benchmarks.scaling --json bench/scaling.json --figure bench/scaling.png
	$(RUN) python -m benchmarks.torch_pieces --json bench/torch_pieces.json
	$(RUN) python -m benchmarks.noise_points --json bench/noise_points.json
	$(RUN) python -m benchmarks.inner_rules --json bench/inner_rules.json
	$(RUN) python -m benchmarks.newton_step --json bench/newton_step.json
	$(RUN) python -m benchmarks.changing_shapes --json bench/changing_shapes.json
	$(RUN) python -m benchmarks.processes --json bench/processes.json

# Half an hour; both engines side by side, a process each.
soak: setup
	OMP_NUM_THREADS=1 $(RUN) python -m benchmarks.soak --minutes 30

clean:
	rm -rf .venv .venv-ecosystem .venv-newest .venv-oldest .venv-arviz .uv docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
