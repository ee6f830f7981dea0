# Everything bootstraps by itself: Python 3.11 to 3.13, make and the package registries are enough.
# The first run makes .venv (some 20 seconds), every later one starts at once. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
CACHE := $(if $(KMSD_CACHE),$(KMSD_CACHE),.cache)

.DEFAULT_GOAL := help
.PHONY: help sandbox test lint format bench fuzz guarantees protos locks example clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

sandbox: $(READY) ## the whole job on this machine, kmsd included; options in ARGS="--public 2000 --keep"
	@$(PY) -m kmsd sandbox $(ARGS)

test: $(READY) ## the tests; a choice of them in ARGS="tests/wire -k vectors"
	@$(PY) -m pytest $(ARGS)

lint: $(READY) ## ruff, mypy --strict, what must not stand in a commit
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(PY) -m mypy --strict
	@$(PY) tests/repository_check.py
	@$(PY) -m kmsd.documents --check

format: $(READY) ## lets ruff write what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(READY) ## measurements; a choice of them in ARGS
	@$(PY) -m bench $(ARGS)

fuzz: $(READY) ## damaged input into every decoder, for FUZZ_SECONDS (600)
	@KMSD_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(PY) -m pytest -m fuzz $(ARGS)

guarantees: $(READY) ## every promise with its tests and their last result
	@$(PY) tests/guarantees.py

protos: $(READY) ## kmsd/core/pb anew from protos/
	@$(PY) protos/generate.py

locks: $(READY) ## requirements/*.lock anew from pyproject.toml: versions and hashes, no addresses
	@for lock in "dev --all-extras" "daemon"; do set -- $$lock; \
		$(VENV)/bin/uv pip compile -q --universal --generate-hashes --python-version 3.11 --cache-dir $(CACHE)/uv \
			--no-emit-index-url --no-emit-find-links --no-annotate --no-header $$2 \
			pyproject.toml -o requirements/$$1.lock || exit 1; done

clean: ## forgets .venv and .cache
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache

# uv installs from the lock file ten times as fast as pip; it comes itself by version and hash.
$(READY): requirements/bootstrap.lock requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else \
		f"kmsd needs Python 3.11 to 3.13; $(PYTHON) is {v[0]}.{v[1]}. Choose another with PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian install python3-venv"; exit 1; }
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock
	@$(VENV)/bin/uv pip install -q --python $(PY) --cache-dir $(CACHE)/uv --no-build --require-hashes \
		-r requirements/dev.lock
	@$(VENV)/bin/uv pip install -q --python $(PY) --cache-dir $(CACHE)/uv --no-deps --no-build-isolation --editable .
	@touch $@
