# One entry point for people and CI. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HARNESS := PYTHONPATH=tests/cluster $(BIN)/python -m harness
# Tests mostly wait for real servers and workers, so more of them run at a time than there are cores.
JOBS ?= 8
# Hundreds of processes start in the tests; each would compile the same sources again where an environment forbids to keep them.
export PYTHONDONTWRITEBYTECODE :=
# On the cluster most of a test's time is waiting for pods, which start no faster when many do at the same time.
CLUSTER_JOBS ?= 2
CLUSTER_TESTS := $(BIN)/pytest -v --timeout=900 --durations=20 tests/cluster
# A choice of tests may be in one half only (5: there are none in the other).
CLUSTER_ARGS = $(PYTEST_ARGS)$(if $(PYTEST_ARGS), || test $$? = 5)
# One kind of Redis for all tests. Plain pytest, without TEST_REDIS, runs what keeps state in Redis on each kind of it.
REDIS ?= $(TEST_REDIS)
FIRST_REDIS := redis-7
OTHER_REDIS := redis-8 valkey-8
TESTS := $(BIN)/pytest -q --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder

##@ For everybody

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.installed ## Run the example workflow and pool on this machine, without a cluster
	@$(BIN)/celery-operator run --until-idle examples/04-word-count.yaml

.PHONY: demo-cluster
demo-cluster: cluster-up ## The same on a real Kubernetes node: build images, install the chart, apply, watch
	@$(HARNESS) images
	@PYTHONPATH=tests:tests/cluster $(BIN)/python -m demo

##@ Developing

.PHONY: setup
setup: $(VENV)/.installed system ## Everything a checkout needs

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "Installing the locked dependencies into $(VENV) (about 30 s) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.PHONY: system
system: $(VENV)/.installed ## The servers and tools that tests start: Redis 7 and 8, Valkey 8, RabbitMQ 3 and 4, helm
	@tests/install-servers
	@TEST_REDIS="$(REDIS)" PYTHONPATH=tests:tests/cluster $(BIN)/python -m servers_install
	@$(HARNESS) helm >/dev/null

.PHONY: lint
lint: $(VENV)/.installed ## ruff, import-linter, stale generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python -m celery_operator.generate --check

.PHONY: type
type: $(VENV)/.installed ## mypy, strict
	@$(BIN)/mypy operator worker_image tests benchmarks
	@$(BIN)/mypy --no-error-summary tests/cluster/conftest.py # apart: to mypy two conftest.py at the roots of its path are one module

.PHONY: format
format: $(VENV)/.installed ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: test
test: $(VENV)/.installed system ## Every check and test that needs no cluster, on Redis 7 (REDIS=valkey-8: on that)
	@$(MAKE) --no-print-directory --jobs=3 lint type tests # tests mostly wait, so the checks cost no time beside them

# In the order of names: the folders with real servers first, and tests/unit, whose files end in a moment, last.
.PHONY: tests
tests: $(VENV)/.installed
	@TEST_REDIS="$(or $(REDIS),$(FIRST_REDIS))" $(TESTS) --ignore=tests/cluster $(PYTEST_ARGS)

.PHONY: test-servers
test-servers: $(VENV)/.installed system ## What works on a Redis (workers, patterns, adapters) on Redis 8 and Valkey 8 too
	@for kind in $(OTHER_REDIS); do TEST_REDIS=$$kind $(TESTS) tests/agent tests/contract tests/patterns $(PYTEST_ARGS); done

.PHONY: generate
generate: $(VENV)/.installed ## Write crds/, the chart's CRDs and values schema, and the field reference
	@$(BIN)/python -m celery_operator.generate

LOCK := uv pip compile --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --quiet pyproject.toml
.PHONY: lock
lock: ## Lock the dependencies again (needs uv)
	@$(LOCK) --python-version 3.11 --extra cli --extra operator --extra otel --extra sentry --extra worker --group dev -o requirements/dev.txt
	@$(LOCK) --python-version 3.13 --extra operator -o requirements/operator.txt
	@$(LOCK) --python-version 3.13 --extra worker -o requirements/worker.txt

.PHONY: bench-patterns
bench-patterns: $(VENV)/.installed system ## What the worker's patterns cost, beside plain Celery and other libraries (ARGS=--quick)
	@PYTHONPATH=.:tests $(BIN)/python -m benchmarks.patterns $(ARGS)

##@ On a real cluster

.PHONY: cluster-up
cluster-up: $(VENV)/.installed ## kind where a container engine answers, else a Kubernetes node of our own (first build: about 15 min)
	@$(HARNESS) up

.PHONY: cluster-down
cluster-down: $(VENV)/.installed ## Stop it; binaries and base images stay cached
	@$(HARNESS) down

.PHONY: cluster-clean
cluster-clean: $(VENV)/.installed ## Stop it and remove the cache too
	@$(HARNESS) clean

.PHONY: test-cluster
test-cluster: cluster-up ## The tests on the cluster that cluster-up started, and on no other
	@$(HARNESS) images operator worker redis rabbitmq
	@echo "First the tests that leave the operator alone, $(CLUSTER_JOBS) at a time; then those that do not, one by one."
	@$(CLUSTER_TESTS) -m "not wounds_operator" --numprocesses=$(CLUSTER_JOBS) --dist=loadfile $(CLUSTER_ARGS)
	@$(CLUSTER_TESTS) -m wounds_operator $(CLUSTER_ARGS)

.PHONY: bench-workflows
bench-workflows: cluster-up ## Time per step, fan-out and throughput of workflows, beside the bare floor (ARGS=--quick)
	@$(HARNESS) images
	@PYTHONPATH=.:tests/cluster $(BIN)/python -m benchmarks.workflows $(ARGS)
