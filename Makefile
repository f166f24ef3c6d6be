# Each target does its own set-up: on a fresh machine it needs only make and Python 3.11 to 3.13 with venv and pip.
# `make PYTHON=python3.12 test` picks the interpreter, `make WORKERS=8 test` the number of test processes.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := src tests $(wildcard train.py demos benchmarks)

# One thread a test process: without this each worker's torch takes all cores and they wait for each other.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest \
	-n $(WORKERS) --dist loadscope

CHECK_VERSION := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-fast style quality types audit fresh coverage mutations docs screenshots clean distclean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## The virtual environment .venv with the package (editable) and its tools

# A .venv made by hand or by another tool is kept (it may hold a torch build of your choice) and gets what it lacks.
$(STAMP): setup.cfg setup.py pyproject.toml constraints.txt $(wildcard src/medsam_adapter/native/*.[ch])
	@if [ ! -e $(BIN)/python ]; then \
		command -v $(PYTHON) >/dev/null || { \
			echo "make: there is no '$(PYTHON)'. Install Python 3.11, 3.12 or 3.13," \
				"or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
		$(PYTHON) -c '$(CHECK_VERSION)' || { \
			echo "make: medsam-adapter needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
				"Name another: make PYTHON=python3.12" >&2; exit 1; }; \
		echo "Making $(VENV) with $$($(PYTHON) --version 2>&1)"; \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
			echo "make: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }; \
	fi
	@$(BIN)/python -c '$(CHECK_VERSION)' || { \
		echo "make: $(BIN)/python is $$($(BIN)/python --version 2>&1), and medsam-adapter needs 3.11, 3.12 or 3.13." \
			"Remove it with: make distclean" >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(BIN)/python -m ensurepip >/dev/null
	@echo "Installing into $(VENV) (the first time this takes minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[dev]"
	@touch $@

quickstart: $(STAMP) ## msa quickstart: the whole road once, on this machine
	$(BIN)/msa quickstart

test: $(STAMP) ## All tests
	$(PYTEST)

test-fast: $(STAMP) ## The tests that are not marked slow
	$(PYTEST) -m "not slow"

style: $(STAMP) ## Formats the code and mends what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

quality: types ## Checks format, lint and types, changes nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: $(STAMP) ## Checks the types (mypy, see pyproject.toml)
	$(BIN)/mypy

audit: $(STAMP) ## Known vulnerabilities of the packages in .venv, where the network allows to ask
	@$(BIN)/python .ci/audit.py

fresh: ## The README's two commands in an empty folder with a new environment, from a clone of what is committed
	.ci/fresh

coverage: $(STAMP) ## All tests, and the lines of src/ that they run; below 90 % is an error
	@$(BIN)/python -c 'import pytest_cov' 2>/dev/null || \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt pytest-cov
	$(PYTEST) --cov=medsam_adapter --cov-report=term:skip-covered --cov-fail-under=90

mutations: $(STAMP) ## Spoils the code in ten places, one at a time in a copy, and shows that tests fail
	$(BIN)/python .ci/mutations.py

# The quickstart's recipe with three times the epochs, so that the masks are worth looking at (about 8 minutes).
outputs/msa-phantom: | $(STAMP)
	test -d outputs/quickstart/msa-phantom || $(BIN)/msa quickstart
	$(BIN)/msa train outputs/quickstart/msa-phantom/recipe.yaml --optim.epochs 60 --run.output $@

screenshots: outputs/msa-phantom ## The pictures of the demo for the README
	MSA_SCREENSHOTS=docs/figures MSA_DEMO_ADAPTER=$< $(BIN)/python -m pytest -q tests/browser/test_screenshots.py

docs: $(STAMP) ## The documentation site into site/; a warning is an error
	@$(BIN)/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## Removes what builds and tests left (.venv and outputs/ stay)
	rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests $(wildcard demos benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and .venv with the built kernel
	rm -rf $(VENV) src/medsam_adapter/native/*.so
