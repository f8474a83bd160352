# make demo    from nothing to a small, verified TorchScript file
# make test    all tests            make check    lint, format, types
# make test-exhaustive              the tests of faults with every point of injection, which takes hours
#
# PYTHON=python3.12          another interpreter (3.11 to 3.13)
# VENV=/path/to/venv         another place for the virtual environment
# PIP_ARGS='...'             more arguments for pip install
# PYTEST_ARGS='-m unit'      more arguments for pytest

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip install -qq -c constraints.txt
# The content decides, not the time: a fresh clone beside an old environment installs nothing again.
KEY := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
DEMO := $(VENV)/.scaledl-demo-$(KEY)
DEV := $(VENV)/.scaledl-dev-$(KEY)
# The installation is editable: this file says which clone it means.
CLONE := $(VENV)/.scaledl-clone
define MEAN_THIS_CLONE
@[ "$$(cat $(CLONE) 2>/dev/null)" = '$(CURDIR)' ] || { \
	$(PIP) --no-deps --no-build-isolation -e . && echo '$(CURDIR)' >$(CLONE); }
endef

.DEFAULT_GOAL := help
.PHONY: help demo test test-exhaustive check format bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: $(DEMO)
	$(MEAN_THIS_CLONE)
	@$(BIN)/scaledl chain configs/digits.yaml --id demo

# Tests that watch clocks and processes run two files at a time, all others on all cores; both, whatever the first says.
test: $(DEV)
	$(MEAN_THIS_CLONE)
ifeq ($(strip $(PYTEST_ARGS)),)
	@status=0; \
	$(BIN)/python -m pytest -m 'not integration or beside' --numprocesses=auto --dist=worksteal || status=$$?; \
	$(BIN)/python -m pytest -m 'integration and not beside' --numprocesses=2 --dist=loadfile --durations=25 || status=$$?; \
	exit $$status
else
	@$(BIN)/python -m pytest $(PYTEST_ARGS)
endif

test-exhaustive:
	@SCALEDL_EXHAUSTIVE=1 $(MAKE) test

check: $(DEV)
	$(MEAN_THIS_CLONE)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(DEV)
	$(MEAN_THIS_CLONE)
	@set -e; for name in startup loader step; do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; done

clean:
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	@find . -path ./.git -prune -o -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed caches and build products. $(VENV) and runs/ stay."

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) was not found. Install Python 3.11 to 3.13, or name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "$$($(PYTHON) --version) found, 3.11 to 3.13 needed. Name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv" >&2; exit 2; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(DEMO): | $(BIN)/pip
	@if [ ! -e $(DEV) ]; then \
		echo "Installing scaledl into $(VENV): about 2 minutes and 6 GB (once)"; \
		rm -f $(VENV)/.scaledl-*; \
		$(PIP) $(PIP_ARGS) -e '.[tune]' && echo '$(CURDIR)' >$(CLONE); fi
	@touch $@

$(DEV): | $(BIN)/pip
	@echo "Installing scaledl and its tools into $(VENV): about 2 minutes and 7 GB (once)"
	@rm -f $(VENV)/.scaledl-*
	@$(PIP) $(PIP_ARGS) -e '.[dev,tune,vision,deepspeed,s3,models]' && echo '$(CURDIR)' >$(CLONE)
	@touch $@
