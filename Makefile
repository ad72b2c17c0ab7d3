# Everything a developer types. A fresh machine needs Python 3.11 or later and make; .venv is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-faults check format docs benchmark clean

demo: $(VENV)/.demo
	$(BIN)/lepton demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow and not faults"

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 tests/faults
	$(BIN)/python -m pytest tests/processes

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py -k "not importing"

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

benchmark: $(VENV)/.dev
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/many_tasks.py
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/trainer.py

clean:
	rm -rf $(VENV) build dist site .mypy_cache .ruff_cache .pytest_cache

# The constraints keep pip from replacing the tested versions, torch above all.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Lepton needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.demo
