PY := .venv/bin/python

.PHONY: help setup demo test lint

help:
	@echo 'make setup   create .venv and install everything, pinned (TORCH=... picks a torch)'
	@echo 'make demo    train EANet on a small data set, evaluate it, show pictures'
	@echo 'make test    lint, then run the tests'
	@echo 'make lint    check style alone'

setup:
	@tools/setup_env.sh

demo: setup
	$(PY) tools/demo.py

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check

test: lint
	$(PY) -m pytest -rs
