# Everything bootstraps by itself: Python 3.11 to 3.13, make and the package registries are enough.
# The first run makes .venv (15 to 25 seconds), every later one starts at once. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
UV := $(VENV)/bin/uv --quiet --system-certs --cache-dir $(if $(KMSD_CACHE),$(KMSD_CACHE),.cache)/uv
LOCK = $(UV) pip compile $(ARGS) --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help venv sandbox test lint format bench bench-smoke explain fuzz crash sim sim-mutants guarantees operator protos lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(READY) ## only installs; every other target does it when needed

sandbox: $(READY) ## the whole job on this machine, kmsd included; options in ARGS="--public 2000 --keep"
	@$(PY) -m kmsd sandbox $(ARGS)

test: $(READY) ## the tests, three files at a time; a choice of them in ARGS="tests/wire -k vectors -n 0"
	@$(PY) -m pytest -n $(or $(TEST_PROCESSES),3) --dist loadfile $(ARGS)

lint: $(READY) ## ruff, mypy --strict, what must not stand in a commit
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(PY) -m mypy --strict
	@$(PY) tests/repository_check.py
	@$(PY) -m kmsd.documents --check

format: $(READY) ## lets ruff write what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(READY) ## measurements; a choice of them in ARGS="public user --json"
	@$(PY) -m bench $(ARGS)

bench-smoke: $(READY) ## the bench's short form: do its parts still work? no times
	@$(PY) -m bench --smoke --json $(ARGS)

explain: $(READY) ## what each query reads of a database with EXPLAIN_ROWS (1,000,000) finished requests
	@KMSD_STORE_ROWS=$(or $(EXPLAIN_ROWS),1000000) $(PY) -m pytest tests/live/test_store_plans.py $(ARGS)

sim: $(READY) ## whole daemons in the simulated world: SEEDS (1000) from FIRST (0) on
	@PYTHONPATH=tests $(PY) -m sim run --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0) $(ARGS)

sim-mutants: $(READY) ## within how many seeds (SEEDS, 1000) the simulation finds each deliberate bug
	@PYTHONPATH=tests $(PY) -m sim mutants --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0) $(ARGS)

fuzz: $(READY) ## damaged input into every decoder, for FUZZ_SECONDS (600)
	@KMSD_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(PY) -m pytest -m fuzz $(ARGS)

# KMSD_CRASH_SEED repeats a run's chance, KMSD_CRASH_KILLS says how many random kills (100); a quiet machine measures best.
crash: $(READY) ## everything broken under load, and its table in docs/guarantees.md; 25 minutes
	@$(PY) -m pytest -m crash -s tests/crash $(ARGS) && $(PY) tests/crash/crash_table.py

operator: $(READY) ## what needs Debian packages (Chromium, promtool, systemd): installs them, looks at page, unit, rules, image
	@deploy/install-packages
	@$(PY) -m pytest tests/operator $(ARGS)

guarantees: $(READY) ## every promise with its tests and their last result
	@$(PY) tests/guarantees.py

protos: $(READY) ## kmsd/core/pb anew from protos/
	@$(PY) protos/generate.py

lock: $(READY) ## requirements/*.lock anew: versions and hashes, no addresses; ARGS=--upgrade for newer versions
	@$(LOCK) pyproject.toml --all-extras -o requirements/dev.lock
	@echo hatchling | $(LOCK) pyproject.toml - --extra traces -c requirements/dev.lock -o requirements/daemon.lock
	@echo uv | $(LOCK) - -o requirements/bootstrap.lock

clean: ## forgets .venv and .cache
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache

# uv installs in a tenth of pip's time and comes itself by version and hash. It does not read pip's configuration
# (mirrors, proxies, certificates): where it finds no way to the registry, pip does the same from the same file.
$(READY): requirements/bootstrap.lock requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else \
		f"kmsd needs Python 3.11 to 3.13; $(PYTHON) is {v[0]}.{v[1]}. Choose another with PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian install python3-venv"; exit 1; }
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements/bootstrap.lock
	@$(UV) pip install --python $(PY) --no-build --require-hashes -r requirements/dev.lock || { \
		echo "uv could not; pip takes a few minutes ..."; \
		$(PIP) --only-binary :all: --require-hashes -r requirements/dev.lock; }
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
