# Every target sets up what it needs in .venv. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# What `make demo` imports and posts; name others on the command line.
CHECKPOINT ?= ../shared/real/rtmdet_nano_person.pth
MODEL ?= rtmdet-nano
CLASSES ?= person
PICTURE ?= ../shared/data/coco-mini/val/000000184324.jpg

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-inputs serve test gpu check format bench clean distclean

help: ## This list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(INSTALLED) ## Install everything into .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: demo-inputs $(INSTALLED) ## Import a checkpoint, start the server, post a picture, show the answer
	$(BIN)/python examples/demo.py --checkpoint "$$CHECKPOINT" --model "$$MODEL" \
		--classes "$$CLASSES" --picture "$$PICTURE"

# Before anything is installed. By the environment, so that names may have quotes in them.
export CHECKPOINT MODEL CLASSES PICTURE
demo-inputs:
	@test -f "$$CHECKPOINT" -a -f "$$PICTURE" || { \
		echo "make demo needs a checkpoint and a picture; there is no $$CHECKPOINT or no $$PICTURE." >&2; \
		echo "Name yours: make demo CHECKPOINT=rtmdet_tiny.pth MODEL=rtmdet-tiny CLASSES=coco PICTURE=street.jpg" >&2; \
		echo "Published checkpoints: make setup, then .venv/bin/rtmdet models pull rtmdet-tiny" >&2; \
		exit 2; }

serve: $(INSTALLED) ## Serve the models of triton_repo/ on port 8000
	$(BIN)/rtmdet serve

test: $(INSTALLED) ## All tests that need no GPU
	$(BIN)/pytest --numprocesses 2 -m 'not gpu'

gpu: $(INSTALLED) ## The tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu

check: $(INSTALLED) ## Format, lint, types, import rules, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest --numprocesses 2 -m 'not gpu'

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
