# Every target sets up .venv on its first call; afterwards that step costs nothing. GNU make 3.81 suffices.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help bench docs paper train test test-all lint lock clean

help:
	@echo "make train   meta-train the LSTM on digits and compare it with tuned baselines (about 5 minutes)"
	@echo "make test    run the tests (less than ten minutes)"
	@echo "make test-all   and the slow ones: killed runs, full disks, lost ranks"
	@echo "make paper   every experiment of docs/results.md (hours; resumable); data files by DATA='--mnist FILE …'"
	@echo "make bench   speed and memory as ratios to plain eager PyTorch; a figure of how they scale (some minutes)"
	@echo "make docs    write docs/api.md and what else the documentation repeats of the code"
	@echo "make lint    ruff, ruff format, pyright"
	@echo "make lock    resolve requirements.lock anew"
	@echo "make clean   remove .venv (outputs/ stays)"

train: $(VENV)/.ready
	$(BIN)/python train.py

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2

paper: $(VENV)/.ready
	$(BIN)/python benchmarks/paper.py $(DATA)

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/speed.py --json outputs/benchmarks/speed.json
	$(BIN)/python benchmarks/scaling.py --json outputs/benchmarks/scaling.json

docs: $(VENV)/.ready
	$(BIN)/python docs/generate.py

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lock: $(VENV)/.ready
	$(BIN)/uv pip compile --quiet --universal --no-emit-index-url --no-header --python-version 3.11 --extra dev --upgrade pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV)

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("l2o needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@
