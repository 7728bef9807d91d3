# `make serve` and `make test` are all a newcomer needs; each does its own set-up first.
.DEFAULT_GOAL := help
.PHONY: help serve test test-fast test-services gpu-check lint format types setup print-venv audit lock lock-examples lock-clients lock-agents lock-eval lock-comparison clean

SETUP := deploy/setup/setup.sh
PYTHON := .venv/bin/python
ARGS ?=
MINUTES ?= 10

# Where a shell sets it, every start of the engine would compile thousands of modules again, and of the gateway hundreds.
unexport PYTHONDONTWRITEBYTECODE

help: ## Show these targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

serve: setup ## Start engine and gateway (demo model; ARGS="--model DIR --tp 2" for another).
	@.venv/bin/serval serve $(ARGS)

test: setup ## Everything CI runs: lint, types, unit tests, tests on the real engine.
	@$(MAKE) --no-print-directory --jobs 3 lint types test-services
	@$(PYTHON) tests/support/serval_testkit/lanes.py $(ARGS)

# Mostly waits for downloads and the disk, so beside lint and types.
test-services:
	@deploy/setup/test_services.sh --rehearsal

test-fast: setup ## The tests that start no engine.
	@deploy/setup/test_services.sh
	@$(PYTHON) -m pytest -m "not engine" $(ARGS)

gpu-check: setup ## Everything that waits for a GPU (MINUTES=10, MODEL=DIR, OUT=DIR, REHEARSE=1 on a CPU).
	@$(PYTHON) -m serval_load.gpu_check --minutes $(MINUTES) $(if $(MODEL),--model "$(MODEL)") \
		$(if $(OUT),--out "$(OUT)") $(if $(REHEARSE),--rehearse) $(ARGS)

lint: setup ## Style: ruff's checks and formatting.
	@echo "lint: ruff" >&2
	@$(PYTHON) -m ruff check --quiet .
	@$(PYTHON) -m ruff format --quiet --check .

format: setup ## Rewrite the code in the project's format.
	@$(PYTHON) -m ruff check --quiet --fix . ; $(PYTHON) -m ruff format .

types: setup ## Types: mypy --strict over the three packages.
	@echo "types: mypy" >&2
	@$(PYTHON) -m mypy

setup: ## Prepare .venv (seconds when nothing changed).
	@$(SETUP)

print-venv: ## Print the venv's folder (use `make -s print-venv`).
	@$(SETUP) --print-venv

audit: setup ## Bill of materials, licences, credentials, known vulnerabilities (asks public databases).
	@deploy/audit/audit.sh

lock: setup ## Resolve requirements.lock anew from pyproject.toml.
	@.venv/bin/python -m uv pip compile pyproject.toml --extra engine --extra dev --output-file requirements.lock \
		--python-version 3.11 --quiet --upgrade --no-emit-index-url --no-annotate --generate-hashes \
		--custom-compile-command "make lock"

lock-examples: setup ## Resolve server/examples/requirements.lock anew from requirements.in.
	@.venv/bin/python -m uv pip compile server/examples/requirements.in --quiet --upgrade --python-version 3.11 \
		--output-file server/examples/requirements.lock --no-emit-index-url --no-annotate --generate-hashes \
		--custom-compile-command "make lock-examples"

lock-clients: setup ## Resolve the locks of tests/e2e/clients anew from requirements.in and package.json.
	@.venv/bin/python -m uv pip compile tests/e2e/clients/requirements.in --quiet --upgrade --python-version 3.11 \
		--output-file tests/e2e/clients/requirements.lock --no-emit-index-url --no-annotate --generate-hashes \
		--custom-compile-command "make lock-clients"
	@cd tests/e2e/clients && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

lock-agents: setup ## Resolve the locks of tests/agents/clients anew from requirements.in and package.json.
	@.venv/bin/python -m uv pip compile tests/agents/clients/requirements.in --quiet --upgrade --python-version 3.11 \
		--output-file tests/agents/clients/requirements.lock --no-emit-index-url --no-annotate --generate-hashes \
		--custom-compile-command "make lock-agents"
	@cd tests/agents/clients && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund

lock-eval: setup ## Resolve the harnesses' locks of `serval eval` anew.
	@cd server/serval/evaluation/locks && for name in lm-eval bfcl; do $(CURDIR)/$(PYTHON) -m uv pip compile $$name.in \
		--override $$name.left-out --quiet --upgrade --universal --python-version 3.11 --output-file $$name.lock \
		--no-emit-index-url --no-annotate --generate-hashes --custom-compile-command "make lock-eval"; done

lock-comparison: setup ## Resolve the environments of loadtests/comparison anew.
	@for name in litellm router; do .venv/bin/python -m uv pip compile loadtests/comparison/$$name.in --quiet --upgrade \
		--python-version 3.11 --output-file loadtests/comparison/$$name.lock --no-emit-index-url --no-annotate \
		--generate-hashes --custom-compile-command "make lock-comparison"; done

clean: ## Remove this checkout's venv and caches (the shared packages stay).
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
