# `make serve` installs into .venv and serves the demo; `make test` installs and runs the tests.
.DEFAULT_GOAL := help
.PHONY: help serve test test-slow check docs format clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# faiss-cpu or faiss-gpu: never both, they are two builds of one module.
ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && [ "$$(uname -m)" = x86_64 ] && echo gpu || echo cpu)

help:
	@echo "make serve      install and serve the demo on http://127.0.0.1:8000 (ARGS='--port 9000' for options)"
	@echo "make test       install and run the tests"
	@echo "make test-slow  run the tests that take longer"
	@echo "make check      ruff, mypy --strict, import layers"
	@echo "make docs       build the documentation into build/site"

$(BIN)/python:
	@sh scripts/make-venv.sh $(VENV)

$(VENV)/.serve: $(BIN)/python pyproject.toml clients/python/pyproject.toml constraints.txt
	@echo "Installing the server into $(VENV): PyTorch is large (about 3 GB to download, 6 GB on disk), a few minutes ..."
	@$(PIP) install -q -c constraints.txt -e clients/python -e ".[demo,$(ACCELERATOR)]" --progress-bar on
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@echo "Installing the test and lint tools into $(VENV) ..."
	@$(PIP) install -q -c constraints.txt -e clients/python -e ".[demo,$(ACCELERATOR),dev]"
	@touch $@

serve: $(VENV)/.serve
	@$(BIN)/fromage serve $(ARGS)

# Where it fails, the tests that need it are skipped (or fail: FROMAGE_REQUIRE).
$(VENV)/.clients: $(VENV)/.dev tests/server/completions/clients.txt
	@echo "Installing clients of OpenAI's API, which the tests use, into $(VENV)/openai-clients ..."
	@$(BIN)/python -m tests.server.completions.environment && touch $@ || true

# Two at a time, of one thread each: with more threads than cores, each operation waits for another.
test: $(VENV)/.clients
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -m slow $(ARGS) || [ $$? -eq 5 ]  # 5: none is marked so

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy

docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "build/site/index.html"

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
