# Everything a developer runs. `make` alone lists the targets.
# Each target does its own set-up: Python 3.11 or later, make and a package index are all that is needed.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
IMAGE ?= authz-sidecar:dev

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --no-input
BIN := .venv/bin

# A stamp is named after what it was made from: another requirement, project file or directory makes it again.
key = $(shell cat $(1) 2>/dev/null | { cat; echo "$(CURDIR)"; } | cksum | tr ' ' '-')
DEV_STAMP := .venv/.stamp-$(call key,requirements/dev.txt pyproject.toml)
PROTO_STAMP := .venv-proto/.stamp-$(call key,requirements/proto.txt)
LOCK_STAMP := .venv-lock/.stamp-$(call key,requirements/lock.txt)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environments ---

define new_venv
@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); Python 3.11 or later is needed: make PYTHON=..." >&2; exit 1; }
@test -x $(1)/bin/python || "$(PYTHON)" -m venv $(1) \
	|| { echo "cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
@rm -f $(1)/.stamp-*
endef

.PHONY: venv
venv: $(DEV_STAMP) ## make .venv with the pinned dependencies and the package itself

$(DEV_STAMP):
	@echo "installing requirements/dev.txt into .venv"
	$(call new_venv,.venv)
	@$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(PROTO_STAMP):
	@echo "installing requirements/proto.txt into .venv-proto"
	$(call new_venv,.venv-proto)
	@.venv-proto/bin/python $(PIP_INSTALL) --require-hashes -r requirements/proto.txt
	@touch $@

$(LOCK_STAMP):
	@echo "installing requirements/lock.txt into .venv-lock"
	$(call new_venv,.venv-lock)
	@.venv-lock/bin/python $(PIP_INSTALL) --require-hashes -r requirements/lock.txt
	@touch $@

# --- run ---

.PHONY: demo
demo: venv ## run the demonstration: an agent, a tool server and the sidecar
	@$(BIN)/python -m examples.demo

.PHONY: bench
bench: venv ## measure the decision path against the budgets
	@$(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: image
image: ## build the container image with the local docker engine
	@command -v docker >/dev/null || { echo "docker is not installed; the Dockerfile needs a container engine" >&2; exit 1; }
	@docker build --tag "$(IMAGE)" .

# --- check ---

.PHONY: test
test: venv ## run all tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: venv ## run the tests that take no more than a few seconds each
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

.PHONY: test-fault
test-fault: venv ## run the fault tests: failing disks, kills, full queues
	@$(BIN)/python -m pytest tests/fault $(PYTEST_ARGS)

.PHONY: conformance
conformance: venv ## run published vectors and the property tests
	@$(BIN)/python -m pytest tests/conformance tests/property $(PYTEST_ARGS)

.PHONY: lint
lint: venv ## ruff, mypy, import layers, buf, hadolint, shipped manifests, committed text
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy --no-error-summary authz_sidecar deploy examples
	@$(BIN)/lint-imports --no-logo >.import-linter.log 2>&1 || { cat .import-linter.log; exit 1; }
	@$(BIN)/buf lint proto
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python deploy/pack_policies.py --check policies deploy/base
	@$(MAKE) --no-print-directory committed-text
	@echo "lint: ok"

# Where packages come from and where a checkout lies is each machine's own business.
# Each pattern holds a bracket so that it does not match itself.
HOSTS := (py[p]i|files\.python[h]osted|registry\.np[m]js|static\.crate[s]|crate[s]|deb\.debia[n]|proxy\.golan[g])\.(org|com|io)
PATHS := (^|[^A-Za-z0-9_./-])/([r]oot|[h]ome/[a-z]+|[w]ork/[a-z]+)/

.PHONY: committed-text
committed-text:
	@if ! git rev-parse --git-dir >/dev/null 2>&1; then echo "committed text: not a git checkout, skipped"; \
	elif git grep -nIE '$(HOSTS)|$(PATHS)' -- . ; then \
		echo "committed text: remove the package index hosts and machine paths above" >&2; exit 1; \
	elif grep -nE '://|^--(index|extra|find|trusted)' requirements/*.txt; then \
		echo "requirements: pins carry names, versions and hashes only" >&2; exit 1; fi

.PHONY: fmt
fmt: venv ## format Python and proto files, apply safe fixes
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write proto

# --- generate ---

PROTOC = .venv-proto/bin/python -m grpc_tools.protoc -I proto \
	--plugin=protoc-gen-mypy=.venv-proto/bin/protoc-gen-mypy \
	--plugin=protoc-gen-mypy_grpc=.venv-proto/bin/protoc-gen-mypy_grpc

# protoc_into(directory)
protoc_into = $(PROTOC) --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) \
	proto/authz_sidecar/v1/*.proto

.PHONY: proto
proto: $(PROTO_STAMP) ## generate authz_sidecar/v1 from proto/
	@$(call protoc_into,.)

.PHONY: proto-check
proto-check: venv $(PROTO_STAMP) ## lint proto/ and prove that authz_sidecar/v1 is what it generates
	@$(BIN)/buf lint proto
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(call protoc_into,"$$fresh") \
		&& touch "$$fresh/authz_sidecar/v1/__init__.py" \
		&& diff -r --brief --exclude=__pycache__ --exclude=__init__.py "$$fresh/authz_sidecar/v1" authz_sidecar/v1 \
		|| { echo "authz_sidecar/v1 differs from what proto/ generates: make proto" >&2; exit 1; }
	@echo "proto: ok"

.PHONY: deploy
deploy: venv ## pack policies/ into the Kubernetes base
	@$(BIN)/python deploy/pack_policies.py policies deploy/base

COMPILE = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header

.PHONY: lock
lock: $(LOCK_STAMP) ## resolve all requirements again (LOCK_ARGS=--upgrade for newer versions)
	@$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra server --extra otel --extra demo --group dev -o requirements/dev.txt
	@$(COMPILE) $(LOCK_ARGS) pyproject.toml --extra server --extra otel -c requirements/dev.txt -o requirements/server.txt
	@$(COMPILE) $(LOCK_ARGS) --group build -c requirements/dev.txt -o requirements/build.txt
	@for name in proto lock client-oldest client-newest; do \
		$(COMPILE) $(LOCK_ARGS) requirements/$$name.in -o requirements/$$name.txt; done

.PHONY: clean
clean: ## remove what the targets made
	@rm -rf .venv .venv-proto .venv-lock build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@rm -f .import-linter.log
