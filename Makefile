# make train     set up everything and train a small model on two ranks of this machine
# make test      set up everything, then lint, check types and run the tests, but for the slow ones
# make test-all  the same with the slow tests
# make bench     measure
# make editors   write the grammar of the VS Code extension anew, from the tables of the language
# make goldens   write the expected texts of the tests anew; read the diff before you commit it
# make clean     remove environments and caches; runs/ stays
#
# Needs Python 3.11 or later with venv (installed on Debian, for root). All else, MPI included, goes into .venv.
#
#   PYTHON=python3.12     the interpreter to make .venv with
#   TORCH_INDEX=URL       where to take torch from. By default pip decides, and on Linux takes a CUDA build of some
#                         gigabytes; https://download.pytorch.org/whl/cpu has builds for machines without a GPU
#   PYTEST_ARGS=...       more arguments for pytest, such as `-k router -x`
#   WORKERS=              run the tests one by one, not in two processes

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?=
WORKERS ?= -n 2 --dist loadfile

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help train test test-all bench editors goldens lint clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

train: $(VENV)/.run
	$(BIN)/moec run tiny -n 2 --set parallel.expert=2 --set parallel.shard=2 --data builtin:python-docs --out runs/tiny

# Ranks share few cores in tests: threads of their own would only get in each other's way.
test test-all bench goldens: export OMP_NUM_THREADS = 1
test test-all bench goldens: export TOKENIZERS_PARALLELISM = false

test: lint mpich
	$(BIN)/pytest $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-all: lint mpich
	$(BIN)/pytest $(WORKERS) -m "slow or not slow" $(PYTEST_ARGS)

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/one_rank.py

editors: $(VENV)/.run
	$(BIN)/python -m moec.highlight.textmate editors/vscode/syntaxes/moe.tmLanguage.json

goldens: $(VENV)/.dev
	$(BIN)/pytest -m "not slow and not mpi" --update-goldens $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venv-mpich .slurm build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path "./.*" -prune -exec rm -rf {} +

# --- environments: each stamp says that a step is done, for the pyproject.toml of that time ---

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "moec needs Python 3.11 or later: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	    || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -q -y python3-venv; } \
	    || { echo "$(PYTHON) comes without venv; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# A build of torch from elsewhere comes first and alone, so that no other package is taken from there.
$(VENV)/.torch: pyproject.toml | $(VENV)/.python
	@if [ -n "$(TORCH_INDEX)" ]; then \
	    echo "installing torch from $(TORCH_INDEX)"; \
	    $(PIP) install -q --index-url "$(TORCH_INDEX)" "$$(sed -n 's/^ *"\(torch>.*\)",$$/\1/p' pyproject.toml)"; \
	fi
	@touch $@

$(VENV)/.run: $(VENV)/.torch
	@echo "installing moec, torch and MPI"
	@$(PIP) install -q -e '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch
	@echo "installing moec, torch, MPI and what tests need"
	@$(PIP) install -q -e '.[dev]'
	@touch $@ $(VENV)/.run

# Does nothing where the environment is there already.
.PHONY: mpich
mpich: $(VENV)/.dev
	@$(BIN)/python tests/make_mpich_env.py
