# The one way to work on the project. `make` alone lists the targets.
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
  --python-version 3.11 --custom-compile-command "make lock"
# Bytecode is written whatever the environment says: else each of hundreds of test processes compiles every module.
export PYTHONDONTWRITEBYTECODE :=
# Checked when they are there: the code and everything that runs it.
CODE := worker tests $(wildcard benchmarks examples deploy/*/*.py)

.DEFAULT_GOAL := help
.PHONY: help setup test test-integrations demo quality bench bench-memory profile soak lint kernels schemas lock clean
SOAK_SECONDS ?= 600

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.stamp ## Install everything that is needed into .venv (once; needs Python 3.11 or newer).

.venv/.stamp: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is missing or older than Python 3.11; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "setup: creating .venv with $$($(PYTHON) --version)" >&2
	@$(PYTHON) -m venv .venv || { \
	  echo "make: this Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "setup: installing the locked packages (about a minute the first time)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock >&2
	@echo "setup: installing modelvigil itself" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . >&2
	@touch $@

test: setup ## Run every check: lint, types, import rules and tests.
	@$(MAKE) --no-print-directory --jobs 2 lint kernels
	$(BIN)/python -m pytest

kernels: setup # Compiled once, not in each test process.
	@$(BIN)/python -m worker compile-kernels >&2

test-integrations: setup ## Run the tests with real Prometheus, Alertmanager and OpenSearch (fetched once).
	$(BIN)/python -m pytest -m integration tests/integrations

lint: setup ## Run the checks that need no test: ruff, mypy and the import rules.
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports

demo: setup ## Show the whole pipeline on a local Kafka (DEMO_SECONDS sets how long).
	@$(BIN)/modelvigil demo

quality: setup ## Measure how well anomalies are found (STREAMS=folder of *.npz; without it, shipped streams).
	@$(BIN)/python -m benchmarks.quality $(if $(STREAMS),--streams $(STREAMS))

bench: setup ## Measure it all on a local Kafka, renew benchmarks/RESULTS.md (ONLY=loops,sizes,...; 45 minutes).
	@$(BIN)/python -m benchmarks.bench $(if $(ONLY),--only $(ONLY))

bench-memory: setup ## Measure memory over 50 million events; some ten minutes.
	@$(BIN)/python -m benchmarks.memory --events 50000000

profile: setup ## Draw where the worker's time goes: benchmarks/profile-after.svg.
	@$(BIN)/python -m benchmarks.profile --output benchmarks/profile-after.svg

soak: setup ## Break everything on purpose for SOAK_SECONDS (600); the last line is JSON.
	@$(BIN)/python -m pytest -m soak -n 2 >&2
	@$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS)

schemas: setup ## Write the JSON Schemas of all topics into schemas/.
	@$(BIN)/modelvigil schemas --directory schemas

# Every extra but mlflow, which no check needs.
# The other two are of the container image: what runs in it, and what builds the wheel.
lock: ## Renew the lock files (the only target that needs uv).
	@$(COMPILE) --extra local --extra s3 --extra examples --extra dev --output-file requirements.lock pyproject.toml
	@$(COMPILE) --extra s3 --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml
	@$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' | \
	  $(COMPILE) --constraint requirements.lock --output-file requirements-build.lock -

clean: ## Remove all that make has made, .venv included.
	@rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) deploy -name __pycache__ -type d -prune -exec rm -rf {} +
