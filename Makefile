# make install | demo | test | check | schema | format | clean; every target is safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What compares times, or breaks clusters and looks at the clock, has the machine alone.
ALONE := tests/evaluators/test_latency.py $(addprefix tests/search/test_,cluster.py faults.py launch.py memory.py network.py)
# Searches take longest, and come first.
SHARED := -n 2 --dist loadfile --no-loadscope-reorder $(ALONE:%=--ignore=%) \
	tests/search tests/spaces tests/[!s]*/ tests/test_*.py

export OMP_NUM_THREADS ?= 1

.PHONY: install demo test check schema format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,npu,openvino,ptq]'
	ln -sfn .. $(VENV)/pared  # the root is the package: mypy finds it by this name in any clone
	touch $(STAMP)

demo: install
	$(BIN)/pared demo --out pared-demo

test: install
	$(BIN)/python -m pytest $(SHARED)
	$(BIN)/python -m pytest $(ALONE)

check: install
	$(BIN)/ruff check .
	MYPYPATH=$(VENV) $(BIN)/mypy -p pared
	$(BIN)/python -m pytest -m "not slow" -q -n 2

schema: install
	$(BIN)/python -c "from pared.search.config import schema; print(schema(), end='')" > search/run.schema.json

format: install
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
