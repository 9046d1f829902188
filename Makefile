PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= strategy=shift
# What setup installs: an extra of pyproject.toml, here the least that README's commands need.
EXTRA ?= imagenet
# Installs, and is installed where it is not on the path; make setup UV= installs by pip.
UV ?= uv
# The tests start dozens of processes: what one has compiled, the others read.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.$(EXTRA) ## make .venv and install what a run needs; EXTRA=test adds what the tests need, EXTRA=dev all tools

# One stamp for each extra of pyproject.toml that is installed.
$(VENV)/.%: pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@UV=$(UV) $(BIN)/python scripts/install.py $* $(PIP_ARGS)
	@touch $@

run: $(VENV)/.imagenet ## run the main job on the embedded default; ARGS='strategy=full seed=1' runs another
	$(BIN)/python -m ensemble_transfer $(ARGS)
	@echo "For commands as they are printed above, activate the environment once:  . $(BIN)/activate"

# The promises, and the tests of the modules that differ from main: tests/A/test_B.py for src/ensemble_transfer/A/B.py.
CHANGED = tests/test_invariants.py $(shell { git diff --name-only main; git ls-files --others --exclude-standard; } \
	| sed -nE 's,^src/ensemble_transfer/(.*/)?([^/]+)\.py$$,tests/\1test_\2.py,p; /^tests\/(.*\/)?test_[^\/]+\.py$$/p' \
	| sort -u | xargs ls 2> /dev/null)

test: $(VENV)/.test ## run the tests, one process a core; TESTS=tests/metrics runs some, TESTS=changed those of what changed
	$(PYTEST) $(if $(filter changed,$(TESTS)),$(CHANGED),$(TESTS))

slowest: $(VENV)/.test ## the tests, and the ten that take longest
	$(PYTEST) --durations=10 $(TESTS)

coverage: $(VENV)/.dev ## the tests, and the lines of the package that none of them runs
	$(PYTEST) --cov --cov-report=term-missing:skip-covered $(TESTS)

check: $(VENV)/.dev ## lint, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

notebooks: $(VENV)/.test ## execute the notebooks of docs/ anew, with their outputs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/docs/execute.py docs/notebooks/*.ipynb

gpu: $(VENV)/.test ## the tests and benchmarks that need a GPU, into benchmarks/gpu
	$(BIN)/python -m pytest -m gpu tests/test_gpu.py
	$(BIN)/python scripts/benchmarks/benchmark.py executor memory workers overhead --save benchmarks/gpu

pretend-gpu: $(VENV)/.test ## what a pretend CUDA device can show without a GPU: devices, guards, waits; never numerics or speed
	$(BIN)/python tests/pretend_cuda/run.py $(BIN)/python -m pytest tests/test_gpu.py tests/pretend_cuda

frontier: $(VENV)/.imagenet ## what a budget buys: the small pairs of the protocol on the confirmation seeds, and their page
	PYTHON=$(BIN)/python bash scripts/evidence/frontier.sh 100,101,102,103,104,105,106,107,108,109
	$(BIN)/python scripts/evidence/frontier_report.py multirun/frontier multirun/frontier/page

clean: ## remove the environment and the caches, but no results
	rm -rf $(VENV) .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

.PHONY: help setup run test slowest coverage check format docs notebooks gpu pretend-gpu frontier clean
