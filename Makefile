# One command for everything a user or developer does; every target builds .venv first.
PYTHON ?= python3
SECONDS ?= 30
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := --constraint constraints.txt --editable '.[demo,quantum,peers,dev,docs]'
# Most tests wait for servers: more processes than processors.
WORKERS ?= 4
SIDE_BY_SIDE := --dist loadgroup --no-loadscope-reorder
# The tests start hundreds of Python processes, and without it each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo unit test lint docs check bench engines chaos schemas wheels clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "qstream needs Python 3.11 or newer; run make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	# uv installs in parallel; where it is not available, pip does the same, more slowly.
	$(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip install --quiet --python $(BIN)/python $(PACKAGES) \
	  || PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(PACKAGES)
	touch $@

install: $(STAMP) ## build .venv with qstream and all that demo, tests and linters need

demo: $(STAMP) ## train a small MoE model and optimize its routing live, no server to install
	$(BIN)/qstream demo --seconds $(SECONDS) $(ARGS)

unit: $(STAMP) ## run the tests that need no server
	$(BIN)/python -m pytest -n 2 $(SIDE_BY_SIDE) tests/unit tests/contract tests/conformance $(ARGS)

test: $(STAMP) ## run all tests, against a real Kafka broker and a real Redis
	$(BIN)/python -m pytest -n $(WORKERS) $(SIDE_BY_SIDE) $(ARGS)

lint: $(STAMP) ## format, ruff, mypy, import contracts, drift of generated schemas
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m schemas.generate --check

docs: $(STAMP) ## build the documentation's site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/mkdocs.yml

check: lint docs test ## everything that CI runs

bench: $(STAMP) ## measure, and print a table with the machine
	$(BIN)/python -m tests.benchmarks $(ARGS)

engines: $(STAMP) ## install vLLM's and SGLang's wheels in a throwaway folder, and run our plug-ins in their code
	$(BIN)/python -m tests.engines $(ARGS)

chaos: $(STAMP) ## many seeds of kills and restarts against a real broker
	$(BIN)/python -m pytest tests/chaos -k "not meter" --chaos-seeds 8 $(ARGS)
	$(BIN)/python -m pytest tests/chaos -k meter --chaos-seeds 20 $(ARGS)

schemas: $(STAMP) ## write what follows from the code: JSON Schema, AsyncAPI, golden samples, reference pages
	$(BIN)/python -m schemas.generate
	$(BIN)/python -m docs.generate

wheels: $(STAMP) ## build the wheels of qstream-client and qstream-optimizer into dist/
	$(BIN)/python deploy/wheels.py

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
