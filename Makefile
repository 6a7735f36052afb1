# Everything is run from .venv, which `make setup` makes; `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench kernel lock clean distclean

BIN := .venv/bin
# Arguments for pytest: make test T="tests/unit -k digest"
T ?=
# What keeps of the demo are: process, or a virtual machine, qemu or qemu+vtpm (measured at its start).
BACKEND ?= process

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with all dependencies; seconds when nothing changed
	@scripts/setup.sh

test: lint ## Check style and types, then run all tests; T="…" is passed to pytest
	@scripts/setup.sh --tests
	$(BIN)/python -m pytest $(T)

lint: setup ## Check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy scripts

format: setup ## Format the code and apply safe corrections
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: setup ## Run the whole system once, every command shown; BACKEND=qemu+vtpm with measured machines
	@if [ "$(BACKEND)" != process ]; then scripts/setup.sh --machines; fi
	@$(BIN)/python scripts/demo.py "$(BACKEND)"

bench: setup ## Measure the figures of docs/benchmarks.md anew
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements-bench.lock
	$(BIN)/python -m benchmarks

kernel: setup ## Compile our own small kernel for guest images, once; some ten minutes of a processor
	$(BIN)/keep-manager image kernel build

lock: ## Choose the newest dependencies and write the lock files
	scripts/lock.sh

clean: ## End what a broken-off demo left and remove what was made, except .venv
	@if [ -e .demo ]; then $(BIN)/keep-manager down --home .demo; fi
	rm -rf .demo build dist .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf .venv
