# Everything runs in .venv, which the first command makes. To make it with another Python: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help train test lint format docs

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile

train: $(INSTALLED) ## train an agent; options: make train ARGS="--help"
	@$(BIN)/python train.py $(ARGS)

test: lint ## all checks and all tests
	@$(BIN)/pytest --quiet -n logical --maxprocesses=2 --dist loadscope  # a module's tests share what it has started

lint: $(INSTALLED) ## style and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary

format: $(INSTALLED) ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: $(INSTALLED) ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # with --quiet it would be strict about nothing

# A stamp, so that the environment is set up once, and again only when the dependencies change.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rmc-rl needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up .venv (once; PyTorch is a large download)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@
