# Two commands on a fresh machine: `make demo` and `make test`.  Both make .venv where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test test-all lint docs clean

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/galpipe demo

test: install lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-all: install lint
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m ''

lint: install
	$(BIN)/ruff check galpipe flows tests benchmarks docs
	$(BIN)/ruff format --check galpipe flows tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) workspace
