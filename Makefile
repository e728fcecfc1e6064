# make demo    install the base package (no torch) into .venv and run the whole pipeline on this machine
# make test    set up everything and run the tests
# make setup   only set up; slow, fuzz, lint, types, lab, ray and bench are targets too
#
# PYTHON chooses the interpreter .venv is made with (3.11 or later); DEMO, PYTEST and BENCH pass arguments on; ROUNDS is for fuzz.

VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null),$(p))))
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
MANIFESTS := pyproject.toml setup.py constraints.txt

# Once-for-All's reference implementation, which tests compare with: alone, since what it asks for besides would replace
# torch by another build. What it imports is among the dev extra.
REFERENCE := ofa==0.1.0.post202307202001

DEMO ?=
PYTEST ?=
BENCH ?=
ROUNDS ?= 3

# Where it is set, each of the many processes that tests start would compile every module anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo setup test slow fuzz lint types lab ray bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# Two stamps in one environment: `base` is what a user installs, `dev` adds the extras and the tools. Installing
# either leaves the other working, and both are remade only when a manifest changes.
$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "ofa-edge needs Python 3.11 or later; install one, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.base: $(VENV)/.made $(MANIFESTS)
	@echo "installing ofa-edge into $(VENV) (no torch)"
	$(PIP) --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.made $(MANIFESTS)
	@echo "installing ofa-edge, torch and the development tools into $(VENV)"
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --no-deps '$(REFERENCE)'
	@touch $(VENV)/.base $@

demo: $(VENV)/.base
	$(VENV)/bin/ofa-edge demo $(DEMO)

setup: $(VENV)/.dev

# Two workers, each of whole files, whose fixtures are then made once. No clock decides a test.
test: setup
	$(PY) -m pytest -n 2 --dist loadfile $(PYTEST)

# What takes long: statistics over many simulated tables, runtimes at work for seconds.
slow: setup
	$(PY) -m pytest -n 2 --dist loadfile -m slow $(PYTEST)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# mypy knows no Python older than 3.10; tests/test_imports.py and ruff (py39) keep device_agents at 3.9.
types: setup
	$(PY) -m mypy
	$(PY) -m mypy --python-version 3.10 device_agents

# Property-based tests with examples that no run had before, ROUNDS times; a failure prints how to see it again.
fuzz: setup
	for round in $$(seq $(ROUNDS)); do OFA_EDGE_FUZZ=1 $(PY) -m pytest -n 2 --dist loadfile -q -m hypothesis $(PYTEST) || exit 1; done

# Tests on an emulated arm64 Raspberry Pi (root, mmdebstrap, qemu-user-static): about five minutes, and they skip with a
# sentence where it cannot be built. `make test` leaves them out. OFA_EDGE_LAB_CACHE names the folder where its Debian
# and the packages for it are kept, else one in /var/tmp.
lab: setup
	$(PY) -m pytest -m lab tests/lab $(PYTEST)

# Tests on a local Ray cluster, of which each starts one; skipped by `make test`.
ray: setup
	$(PIP) --constraint constraints.txt --editable '.[ray]'
	$(PY) -m pytest -m ray $(PYTEST)

# Timings; they decide nothing and need a quiet machine.
bench: setup
	@for file in $(wildcard benchmarks/*.py); do echo "== $$file"; $(PY) $$file $(BENCH) || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
