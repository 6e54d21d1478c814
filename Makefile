# `make demo` and `make test` work from a fresh clone: each first makes .venv with everything in it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DALI ?= cuda13
PYTEST_ARGS ?=

.PHONY: install demo test test-slow check format bench gpu clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt launch/install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" DALI="$(DALI)" sh launch/install.sh
	touch $@

demo: install
	$(BIN)/ukd demo

# Two at a time, but for those that start several nodes: what these wait for comes too late beside others. Where
# PYTEST_ARGS choose none of one kind, pytest ends with 5.
test: install
	-sh launch/monitoring/install.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not cluster" -n 2 --timeout=900 $(PYTEST_ARGS) || test $$? = 5
	$(BIN)/python -m pytest -m "cluster and not slow" --timeout=900 $(PYTEST_ARGS) || test $$? = 5

test-slow: install
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What a benchmark imports is none itself; `make test-slow` runs what faults.py records.
bench: install
	set -e; for script in $(filter-out $(addprefix benchmarks/,record.py competitors.py trainings.py teacher_chart.py faults.py),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script; done

# Tests and figures of a machine with a GPU: about 15 minutes.
gpu: install
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) build *.egg-info
