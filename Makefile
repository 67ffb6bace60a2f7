# Every target sets up what it needs in .venv. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SERVING := .venv/.serving

# Files stay together, so that what is shared within one is made once; who is done first helps.
TESTS := $(BIN)/pytest --numprocesses 2 --dist worksteal -m 'not gpu'

# Which of the project's own models `make shapes-model` trains again.
MODEL ?= rtmdet-nano-shapes

.DEFAULT_GOAL := help
.PHONY: help setup demo serve shapes-model docs test gpu check format bench clean distclean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): $(SERVING)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What serving needs, which has no torch and is there within a minute.
$(SERVING): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve]'
	@touch $@

demo: $(SERVING) ## Serve the project's own models, post pictures, write what comes back to out/demo
	$(BIN)/python examples/demo.py

serve: $(SERVING) ## Serve the models of triton_repo/ on port 8000
	$(BIN)/rtmdet serve

shapes-model: $(INSTALLED) ## Train one of the project's own models again: MODEL=rtmdet-r-nano-shapes (hours)
	BIN=$(BIN) examples/train_shapes.sh $(MODEL)

docs: $(SERVING) ## Tables of the documents that the code gives: settings, metrics, problems, routes
	$(BIN)/python -m docs.generate

test: $(INSTALLED) ## All tests that need no GPU
	$(TESTS)

gpu: $(INSTALLED) ## The tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu

check: $(INSTALLED) ## Format, lint, types, import rules, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(TESTS)

format: $(INSTALLED) ## Put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## Every benchmark; takes minutes
	for benchmark in benchmarks/*.py; do \
		echo "== $$benchmark"; OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$$(basename $$benchmark .py) || exit 1; \
	done

clean: ## Remove what the targets made, but not .venv
	rm -rf out build *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

distclean: clean ## Remove .venv too
	rm -rf .venv
