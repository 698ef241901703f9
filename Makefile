# `make demo` and `make test` work on a fresh machine: they first make .venv and install from pyproject.toml.
PYTHON ?= python3
# Versions of the dependencies: newest, or lowest, which are the lower bounds in pyproject.toml.
DEPENDENCIES ?= newest
# A test file runs in one process, since its tests share what they make; there is a process for each core. The files
# start in the order of tests/conftest.py, the longest first.
# A folder of extra wheels may hold a CPU-only torch, beside which torchvision cannot be imported.
export PIP_FIND_LINKS =

.PHONY: demo quick test lint types check docs clean

demo: .venv/installed
	.venv/bin/clipcap-demo

quick: .venv/installed
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test: .venv/installed
	.venv/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/mypy

check: test lint types

docs: .venv/installed
	.venv/bin/python docs/generate.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python tests/lowest.py > .venv/lowest.txt
	.venv/bin/python -m pip install --quiet --editable '.[dev]' $(if $(filter lowest,$(DEPENDENCIES)),--constraint .venv/lowest.txt)
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
