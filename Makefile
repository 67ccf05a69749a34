# make venv | test | demo | bench | docs | clean. All in .venv, made when it is missing.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo
SPEED := floor growth growth_methods sapt_growth decoding peers serve_batch stream trunk

.PHONY: venv test demo bench docs clean

venv: .venv/ready

# torch first: then the default build of this machine is there, and resolving the rest does not
# fetch another one.
.venv/ready: pyproject.toml constraints.txt
	@start=$$(date +%s); \
	test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" && \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[offline,trackers,hub,dev]" && \
	touch .venv/ready && echo ".venv made in $$(( $$(date +%s) - start )) s"

test: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

# The main job: BANKING77 (77 labels in 7 tasks) with Dynamic ConPET and without any memory.
demo: venv
	@start=$$(date +%s); \
	$(BIN)/conpet run examples/banking77-dynamic.yaml --out $(DEMO)/conpet-dynamic && \
	$(BIN)/conpet run examples/banking77-sequential.yaml --out $(DEMO)/sequential && \
	$(BIN)/conpet report $(DEMO)/conpet-dynamic $(DEMO)/sequential --out $(DEMO)/report && \
	echo "demo done in $$(( $$(date +%s) - start )) s (without .venv)"

# How fast it is: each file writes benchmarks/results/NAME.json, then tables and plots are made of
# them. On a machine that does nothing else. BENCH=--quick writes nothing and takes minutes.
bench: venv
	@for name in $(SPEED); do \
	echo "$$name"; $(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; \
	done
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/plots.py
	$(BIN)/python benchmarks/performance.py

docs: venv
	$(BIN)/python -m conpet.cli.docs > docs/cli.md

clean:
	rm -rf .venv $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis
