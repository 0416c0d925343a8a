# Everything a newcomer needs: `make run` and `make test`. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
TEST_PROCESSES ?= 3
PIP_FLAGS := --quiet --disable-pip-version-check --require-hashes
CODE := broker app worker cli simulator local tests bench monitoring

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/run .engine/ready ## the whole broker on this machine: store, provider, worker, API
	@exec $(BIN)/python -m local.run

test: .venv/dev .engine/ready ## every test that needs no account and no engine but the local ones
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder)

check: .venv/dev ## what CI checks: format, lint, types, import contracts
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev ## format and mend what can be mended
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

incident: .venv/run .engine/ready ## the provider's bad quarter of an hour, replayed: attempts, backoff, recovery
	@$(BIN)/python -m local.incident $(ARGS)

soak: .venv/dev .engine/ready ## an hour of chaos over real processes, the invariants checked (ARGS="--minutes 3")
	@$(BIN)/python -m tests.chaos.soak $(ARGS)

bench: .venv/bench .engine/ready ## the broker's speed, tables and plots (ARGS="throughput burst" for some, ARGS=--help)
	@$(BIN)/python -m bench $(ARGS)

bench-smoke: .venv/run .engine/ready ## every bench at a tiny size: does it run? (a test of make test does the same)
	@$(BIN)/python -m bench --quick $(ARGS)

dashboard: .venv/run ## write the Grafana dashboard anew from monitoring/grafana/*.py
	@$(BIN)/python -m monitoring.grafana.dashboard > monitoring/grafana/sandbox-broker.json

terraform: .venv/dev ## terraform/ is formatted and valid, keeps its policies, applies to an emulated AWS, is gone after
	@$(BIN)/python -m pytest tests/terraform $(ARGS)

plans: .venv/dev .engine/ready ## both plans, command by command as written, against an emulated AWS (minutes)
	@BROKER_TEST_PLANS=1 $(BIN)/python -m pytest -s tests/plans $(ARGS)

checkov: .venv-checkov/ready ## terraform/ against checkov's rules; each one not kept says why where it stands
	@.venv-checkov/bin/checkov -d terraform --framework terraform --quiet --compact --skip-download

engine: .engine/ready ## install the local DynamoDB engine

install: .venv/dev .engine/ready ## everything that run, test and check need

LOCK = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: .venv/dev ## pin the dependencies anew, with hashes; no index address is recorded
	$(LOCK) pyproject.toml --extra api --extra worker --extra tracing --extra local --extra cli --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt --extra api --extra tracing -o requirements/api.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt --extra worker --extra tracing -o requirements/worker.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt --extra api --extra worker --extra tracing --extra local --extra cli -o requirements/run.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt --extra api --extra worker --extra tracing --extra local --extra cli --extra bench -o requirements/bench.txt
	$(LOCK) requirements/engine.in -o requirements/engine.txt

clean: ## remove what make installed
	rm -rf .venv .venv-checkov .engine build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help run test incident soak bench bench-smoke dashboard terraform plans checkov check format engine install lock clean python

python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed: install it, or say where with 'make PYTHON=/path/to/python3'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) cannot make virtual environments: install its venv package (Debian: apt-get install python3-venv)." >&2; exit 1; }

.venv/pip: | python
	@echo "Making .venv ..."
	@$(PYTHON) -m venv .venv && touch $@

.venv/run: requirements/run.txt | .venv/pip
	@echo "Installing what the broker needs (once) ..."
	@$(BIN)/pip install $(PIP_FLAGS) -r requirements/run.txt && touch $@

.venv/bench: requirements/bench.txt | .venv/pip
	@echo "Installing what benches and their plots need (once) ..."
	@$(BIN)/pip install $(PIP_FLAGS) -r requirements/bench.txt && touch $@ .venv/run

.venv/dev: requirements/dev.txt | .venv/pip
	@echo "Installing what tests and checks need (once) ..."
	@$(BIN)/pip install $(PIP_FLAGS) -r requirements/dev.txt && touch $@ .venv/run

.engine/ready: requirements/engine.txt | python
	@echo "Installing the local DynamoDB engine (once) ..."
	@$(PYTHON) -m venv .engine && .engine/bin/pip install $(PIP_FLAGS) -r requirements/engine.txt && touch $@

.venv-checkov/ready: | python
	@echo "Installing checkov (once; it pins much that the broker does not need) ..."
	@$(PYTHON) -m venv .venv-checkov && .venv-checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30 && touch $@
