# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
NATIVE = $(VENV)/.native
FRAMEWORKS = .venv-frameworks
# Tests start hundreds of interpreters: what these compile is kept, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE =
# Some wait, for a process or a limit: three on two cores take three quarters of the time of two.
PROCESSES = $(shell expr $$(nproc) \* 3 / 2)
UNIT_TESTS = $(BIN)/python -m pytest tests/unit -m 'not long' --numprocesses $(PROCESSES) --maxprocesses 8 --dist worksteal
# On the real server: they mostly wait. What wants the machine for itself is marked `alone`, and has it.
INTEGRATION_TESTS = $(BIN)/python -m pytest tests/integration -m 'not long' --numprocesses 3 --dist loadfile

.PHONY: help setup native cpp wheel site release package demo test cases performance fleet containers browser frameworks observe lint check format clean
.DEFAULT_GOAL := help

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(NATIVE)  ## Make the virtual environment with pinned dependencies; compile the native backend if there is a compiler

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"Python {v[0]}.{v[1]} found, 3.11 or 3.12 needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing pinned dependencies into $(VENV) (some 1 GB; a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

$(NATIVE): $(STAMP) $(wildcard backend_openvino/src/*) backend_openvino/CMakeLists.txt backend_openvino/build.py
	@$(BIN)/python backend_openvino/build.py --optional
	@touch $(NATIVE)

native: $(STAMP)  ## Compile the native OpenVINO backend; needs g++
	@$(BIN)/python backend_openvino/build.py

cpp: build/control_loop  ## Compile the example of a control loop in C++, which asks by the local lane; needs g++

build/control_loop: examples/cpp/control_loop.cpp examples/cpp/policyctl_lane.hpp
	@mkdir -p build
	@$(CXX) -std=c++17 -O2 -Wall -Wextra -Wshadow -Wpedantic $< -o $@

wheel: setup  ## Build the wheel for this platform into dist/, with what was compiled
	@$(BIN)/python backend_openvino/wheel.py dist

site: setup  ## Build the site of the guides into build/site/site; broken links, missing pages and foreign files fail
	@$(BIN)/python website/website.py build/site

release: wheel site  ## Write into dist/ what a release has; TAG=v1.2.3 holds the tag against version and changelog
	@$(BIN)/python release/release_files.py dist --tag "$$TAG"

package: setup  ## Build the wheel, install it into fresh environments, and use it from an empty folder
	@$(BIN)/python -m pytest tests/package

demo: setup  ## Export, publish, serve, promote under load, measure, roll back
	@$(BIN)/policyctl demo

test: setup  ## Run the tests, those on the real Triton too
	@$(UNIT_TESTS)
	@$(INTEGRATION_TESTS)

cases: setup  ## Run what failed once: the inputs of ../shared/cases, where that folder is
	@$(BIN)/python -m pytest tests/unit tests/integration -m case

performance: setup  ## Run the long tests, and those of what measures and watches: slow-downs, leaks and faults that must be found
	@$(BIN)/python -m pytest tests/unit tests/integration -m long --numprocesses 2
	@$(BIN)/python -m pytest tests/performance --durations 12

$(FRAMEWORKS)/.installed: $(STAMP) examples/frameworks/requirements.txt
	@echo "Installing other frameworks into $(FRAMEWORKS) (some 1.4 GB) ..."
	@$(BIN)/python examples/frameworks/over.py $(FRAMEWORKS)
	@$(BIN)/python -m pip --python $(FRAMEWORKS)/bin/python install --quiet --disable-pip-version-check --no-deps --requirement examples/frameworks/requirements.txt
	@touch $@

frameworks: setup $(FRAMEWORKS)/.installed  ## Train with other frameworks, export, and compare with their own answers
	@$(FRAMEWORKS)/bin/python -m pytest tests/unit/exporters/test_exporters_frameworks.py

fleet: setup  ## Start a store and five nodes, promote under load, kill nodes, roll back, and count what was lost
	@$(BIN)/python benchmarks/fleet.py

containers: setup  ## Run the tests on a separate Docker engine: needs root and docker.io, and says what it lacks
	@$(BIN)/python -m pytest tests/containers -rs

browser: setup  ## Run the tests of console and site in Chromium, on the real server too; says what it lacks
	@$(BIN)/python -m pytest tests/browser -rs

observe: setup  ## Run Prometheus and Alertmanager on the running server; prints alerts
	@$(BIN)/python alerts/observe.py

lint: setup  ## Lint, types, layers, words
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python tests/prose.py

check: lint  ## The fast loop: lint, types, layers, unit tests
	@$(UNIT_TESTS)

format: setup  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment and caches (not the model repository)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
