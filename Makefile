# make install | demo | test | check | format | clean; every target is safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export OMP_NUM_THREADS ?= 1

.PHONY: install demo test check format clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	ln -sfn .. $(VENV)/pared  # the root is the package: mypy finds it by this name in any clone
	touch $(STAMP)

demo: install
	$(BIN)/pared demo --out pared-demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	MYPYPATH=$(VENV) $(BIN)/mypy -p pared
	$(BIN)/python -m pytest -m "not slow" -q

format: install
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
