# `make demo` and `make test` set up all that they need in .venv. Override PYTHON to choose the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: demo test test-containers lint stubs bench clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]" "$(TORCH)"
	touch $@

demo: $(VENV)/.ready  ## set up, fetch the demo model, start all three services, stream an answer, print what happened
	$(BIN)/minedraft demo

test: $(VENV)/.ready  ## the whole test suite
	$(BIN)/python -m pytest

test-containers: $(VENV)/.ready  ## build the images, `docker compose up`, ask, kill, stop, down; skipped without Docker. BASE_IMAGE may name another
	$(BIN)/python -m pytest -m containers tests/containers

lint: $(VENV)/.ready  ## formatting, types, import rules, protocol
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint

stubs: $(VENV)/.ready  ## regenerate minedraft/v1 from protos/
	$(BIN)/python tools/stubs.py minedraft

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
