# Each target sets up what it needs in .venv. PYTHON chooses the interpreter (3.10 to 3.13).
PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow lint types check wheel clean

.venv/.ready: pyproject.toml constraints.txt
	@echo "setting up .venv (once; about 2 GB of downloads where PyTorch comes with CUDA)"
	$(PYTHON) -m venv .venv
	$(INSTALL) -e ".[report]"
	@touch $@

.venv/.ready-test: .venv/.ready
	$(INSTALL) -e ".[test,lint,report]"
	@touch $@

.venv/.ready-slow: .venv/.ready-test
	$(INSTALL) -e ".[test,lint,report,ray]"
	@touch $@

demo: .venv/.ready  ## pre-train on the embedded PM6 sample, evaluate, embed: four to eight minutes on two CPU cores
	$(BIN)/molstream pretrain --out $(DEMO) --resume
	$(BIN)/molstream embed $(DEMO)/shards --checkpoint $(DEMO) --split val --out $(DEMO)/embeddings
	@echo
	@echo "The run is in $(DEMO)/, embeddings of the validation molecules in $(DEMO)/embeddings/. What to type next:"
	@echo "  $(BIN)/molstream eval    $(DEMO)/shards --checkpoint $(DEMO) --split test"
	@echo "  $(BIN)/molstream inspect $(DEMO)/shards"
	@echo "  $(BIN)/molstream cat     $(DEMO)/shards --limit 1"
	@echo "  $(BIN)/molstream embed   YOUR.csv --checkpoint $(DEMO) --out embeddings"

test: .venv/.ready-test  ## the fast suite
	$(BIN)/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal

test-slow: .venv/.ready-slow  ## builds that are killed, run out of disk, or lose a node of a Ray cluster: some five minutes
	$(BIN)/python -m pytest -q -m slow

lint: .venv/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready-test
	$(BIN)/mypy

check: test test-slow lint types  ## what CI runs, but for the demo

wheel: .venv/.ready
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist *.egg-info
