# The commands of a contributor. `make` alone lists them. Everything runs from .venv, which `setup` makes.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-stop lab natlab test lint fuzz bench lock clean

PYTHON ?= python3
BIN := .venv/bin
CHECKED := meshproto stun derp meshnode coordinator tests bench setup.py
# Tests that a contributor wants now: make test TESTS=tests/meshproto
TESTS ?=
# The longest tests mostly wait for something, so there are three processes for two cores; a file stays in one.
WORKERS ?= $(shell echo $$(((3 * $$(nproc) + 1) / 2)))
NATIVE := native/Cargo.toml native/Cargo.lock $(wildcard native/src/*.rs native/src/*/*.rs)
export PYTHON

help:
	@echo 'make demo        a coordinator and four nodes in namespaces, at work (root); KEEP=1 leaves them running'
	@echo 'make demo-stop   ends what KEEP=1 left'
	@echo 'make lab         two nodes behind NATs, and a shell to try them in (root); NET=name, none lists the names'
	@echo 'make natlab      every pair of NATs: how they meet and how fast, as a table (root); ARGS=--help for more'
	@echo 'make test        lint, types and every test, system and interop included (root); TESTS=path for some'
	@echo 'make lint        ruff, mypy, rustfmt and clippy only'
	@echo 'make fuzz        hostile bytes into kernel and parsers; RUNS=n or SECONDS=n per target, ARGS=--help for more'
	@echo 'make bench       speed, as ratios, into docs/performance.md (root); QUICK=1 to try it, ARGS=--help for more'
	@echo 'make setup       install what all of these need; they call it by themselves'
	@echo 'make lock        choose the newest versions of all dependencies anew, into requirements.lock'
	@echo 'make clean       remove .venv, caches and what a broken run left'

setup: .venv/.ready
	@:

.venv/.ready: tools/setup.sh requirements.lock pyproject.toml setup.py $(NATIVE)
	@tools/setup.sh
	@touch $@

demo: setup
	@$(BIN)/python -m tests.netlab.demo $(if $(KEEP),--keep)

demo-stop: setup
	@$(BIN)/python -m tests.netlab.demo --stop

lab: setup
	@$(BIN)/python -m tests.netlab.natshell $(NET)

natlab: setup
	@$(BIN)/python -m tests.netlab.matrix $(ARGS)

lint: setup
	@$(BIN)/ruff check --quiet $(CHECKED)
	@$(BIN)/ruff format --quiet --check $(CHECKED) || { $(BIN)/ruff format --check $(CHECKED); exit 1; }
	@$(BIN)/mypy
	@tools/native.sh lint

test: lint
	@tools/native.sh test
	@$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

fuzz: setup
	@$(BIN)/python -m tests.fuzz $(if $(RUNS),--runs $(RUNS)) $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

bench: setup
	@$(BIN)/python -m bench $(if $(JSON),--json) $(if $(QUICK),--quick) $(ARGS)

lock:
	@tools/lock.sh

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m tests.netlab.demo --stop; fi
	rm -rf .venv build dist native/target native/fuzz/target meshnode/_native.*.so *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
