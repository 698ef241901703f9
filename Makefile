# `make demo` and `make test` work on a fresh machine: they make .venv and install from pyproject.toml first.
PYTHON ?= python3
# A folder of extra wheels may hold a CPU-only torch, beside which torchvision does not import.
export PIP_FIND_LINKS =

.PHONY: demo test lint types check clean

demo: .venv/installed
	.venv/bin/clipcap-demo

test: .venv/installed
	.venv/bin/python -m pytest

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/mypy

check: test lint types

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
