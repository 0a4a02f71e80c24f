# Everything sets itself up in .venv: a machine with Python 3.11+ and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := $(VENV)/.installed-to-run

# what Python compiled is kept: tests and demo start thousands of short commands
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-big demo-projects test lint bench conformance soak soak-serve clean
PEERS := $(or $(LAMINA_PEERS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lamina-peers)

help:
	@echo "make demo   images made of this machine's programs, layer by layer (under a minute, no root, no network but pip's; KERNEL=PATH: one as a virtual machine)"
	@echo "make demo-big  real images of Debian packages, made, pulled, run and booted (root, network; CACHE=DIR keeps the trees, KEEP=1 all)"
	@echo "make demo-projects  five projects built from their Dockerfiles, and run (root, network; NAMES='go java': only these)"
	@echo "make test   lint, types, import rules and all tests (LAMINA_TEST_THOROUGH=1: tests of chance take more examples)"
	@echo "make bench  measurements of the parser, the index and the merge; with LAYOUT=DIR also of everything else, compared with other engines, in bench/RESULTS.md"
	@echo "make soak  ten minutes of containers that start, end and are killed at random (root; SECONDS=600 SEED=1)"
	@echo "make soak-serve  ten minutes of 64 clients of a registry that is killed each minute (SECONDS=600 SEED=1; STORAGE=versitygw: two servers over a bucket)"
	@echo "make conformance  the OCI distribution conformance program against lamina serve; its report is in .venv/conformance, or REPORT=DIR (needs Go)"

define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "lamina needs Python 3.11 or later; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11" >&2; exit 1; }
@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "python3 -m venv does not work here: install the package python3-venv" >&2; exit 1; }
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'
endef

$(STAMP): pyproject.toml
	$(call install,dev)
	@touch $@ $(RUNS)

# what a user installs: enough for the demo, and quickly there
$(RUNS): pyproject.toml
	$(call install,run)
	@touch $@

# MUST_RUN=1: a failure where no container can run
demo: $(RUNS)
	@$(BIN)/python demo/demo.py $(if $(MUST_RUN),--must-run) $(if $(KERNEL),--kernel "$(KERNEL)")

demo-big: $(STAMP)
	@$(BIN)/python demo/big.py $(if $(CACHE),--cache "$(CACHE)") $(if $(KEEP),--keep) $(if $(MIRROR),--mirror "$(MIRROR)")

demo-projects: $(STAMP)
	@$(BIN)/python demo/projects.py $(NAMES) $(if $(KEEP),--keep)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest -n auto

# as root, on journaled file systems that it makes itself; writes bench/RESULTS.md
bench: $(STAMP)
	$(BIN)/python bench/layer_index.py
	@if [ -z "$(LAYOUT)" ]; then echo "make bench LAYOUT=DIR [USER_NAME=NAME] measures with the images of an OCI layout, beside peers (see bench/mounted.py)"; exit 0; fi; \
	set -e; export LAMINA_PEERS=$(PEERS); \
	$(BIN)/python bench/mounted.py $(LAYOUT) $(if $(USER_NAME),--user $(USER_NAME)); \
	for one in wire keep insight; do $(BIN)/python bench/$$one.py $(LAYOUT); done; \
	$(BIN)/python bench/find.py

# the OCI program against `lamina serve --writable`; built once, outside the tree
REPORT ?= $(VENV)/conformance
conformance: $(STAMP)
	@command -v go >/dev/null || { echo "the conformance program needs Go, and there is none: skipped"; exit 0; } && \
	tests/peers.sh $(PEERS) conformance && $(BIN)/python tests/conformance.py $(PEERS)/bin/conformance $(REPORT)

# loopback only; says its seed
soak: $(STAMP)
	@$(BIN)/python tests/soak_containers.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

# loopback only; says its seed
soak-serve: $(STAMP)
	@$(BIN)/python tests/soak_serve.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(STORAGE),--storage $(STORAGE))

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
