# make venv | test | demo | docs | clean. All in .venv, made when it is missing.

PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: venv test demo docs clean

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

docs: venv
	$(BIN)/python -m conpet.cli.docs > docs/cli.md

clean:
	rm -rf .venv $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis
