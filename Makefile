# `make demo` and `make test` are all that a fresh machine with Python 3.11 or newer needs: each makes .venv
# from constraints.txt first. Running them again is safe; an interrupted installation starts over.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PYTEST_ARGS ?=
# One process more than cores, as some tests wait; few enough for the memory of a small machine.
TEST_WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$(( n < 4 ? n + 1 : 4 )))

BIN := .venv/bin
# A process that has nothing left takes tests from one that has: files stay together, with what their tests share.
PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Written last: it says that the environment is whole and as new as the files that describe it.
INSTALLED := .venv/.installed
# The same for the rivals that only the benchmarks run.
RIVALS := .venv/.rivals-installed
# And for what makes the documentation site.
SITE := .venv/.site-installed

# Engines that checkpoints are tried in, each in an environment of its own: those that `make test` installs, and all.
SUITE_CLIENTS := llamacpp ctranslate2
CLIENTS := $(SUITE_CLIENTS) transformers4 onnxruntime_genai openvino_genai mlx lm_eval quantized_cache vllm
client_stamps = $(patsubst %,.venv-clients/%/.installed,$(1))

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: demo
demo: $(INSTALLED) ## the main job on the embedded model: half, then three quarters of the KV cache gone
	$(BIN)/python -m experiments.demo

.PHONY: test
test: $(INSTALLED) $(call client_stamps,$(SUITE_CLIENTS)) ## the suite: minutes
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-all
test-all: $(INSTALLED) $(call client_stamps,$(SUITE_CLIENTS)) ## the suite with its full matrices, for the night
	$(PYTEST) --nightly --hypothesis-profile=nightly $(PYTEST_ARGS)

.PHONY: explore
explore: $(INSTALLED) ## property tests on examples that nobody has tried: ten times as many as in `make test-all`, new ones each time
	$(PYTEST) --nightly -m hypothesis --hypothesis-profile=explore $(PYTEST_ARGS)

.PHONY: test-clients
test-clients: $(INSTALLED) $(call client_stamps,$(CLIENTS)) ## checkpoints in every engine, some of them large
	GQASEARCH_ALL_CLIENTS=1 $(BIN)/python -m pytest -n0 --nightly tests/clients $(PYTEST_ARGS)

.PHONY: lint
lint: $(INSTALLED) ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(RIVALS) ## measure merges (a minute) and searches (half an hour)
	$(BIN)/python -m experiments.benchmarks
	$(BIN)/python -m experiments.benchmarks.search

.PHONY: docs
docs: $(SITE) ## the documentation site, in docs/_build/html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: venv
venv: $(INSTALLED) ## only make .venv

# An environment without its stamp is a half-installed one: begin again. With it, bring it up to date in place.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"gqasearch needs Python 3.11 or newer; $(PYTHON) is {v.major}.{v.minor}. Name another: make PYTHON=python3.12 ...")'
	@echo "Installing into .venv (a few minutes the first time)"
	@if [ -e $@ ]; then rm $@; else $(PYTHON) -m venv --clear .venv; fi
	@$(PIP) install --quiet --constraint constraints.txt hatchling
	@$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

$(RIVALS): $(INSTALLED) experiments/benchmarks/requirements.txt
	@$(PIP) install --quiet --constraint constraints.txt --requirement experiments/benchmarks/requirements.txt
	@touch $@

$(SITE): $(INSTALLED) docs/requirements.txt
	@$(PIP) install --quiet --constraint constraints.txt --requirement docs/requirements.txt
	@touch $@

# Exact versions, dependencies included; what a client takes from the main environment (torch, transformers) it finds
# behind its own packages.
.venv-clients/%/.installed: tests/clients/%/requirements.txt $(INSTALLED)
	@echo "Installing $* into $(@D)"
	@$(BIN)/python -m venv --clear --without-pip $(@D)
	@$(PIP) --python $(@D)/bin/python install --quiet --no-deps --requirement $<
	@$(BIN)/python -c 'import sysconfig as s; print(s.get_path("purelib"))' > $$($(@D)/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/main_environment.pth
	@touch $@
