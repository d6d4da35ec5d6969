# `make demo` runs a federation of four hospitals here (`make demo ATTACK=sign-flip`: one of them
# lies); `make test` is what CI runs; `make chaos`
# kills, cuts and floods it for an hour or two (`make chaos KILLS=10` for minutes).
# Every target makes .venv first, from constraints.txt.

PYTHON ?= python3
ROUNDS ?= 3
STEPS ?= 12
KILLS ?= 300
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo chaos test lint types imports unit clean

demo: $(VENV)/installed
	$(BIN)/python -m appliance.demo --rounds $(ROUNDS) --steps $(STEPS) $(if $(ATTACK),--attack $(ATTACK))

chaos: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --kills $(KILLS) $(CHAOS)

test: lint types imports unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck installers/*.sh

types: $(VENV)/installed
	$(BIN)/mypy

imports: $(VENV)/installed
	$(BIN)/lint-imports

unit: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

# torch comes first and pinned, so that pip may take a CPU wheel where the user's pip knows one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FedMed needs Python 3.11 or newer.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo-run
