# An environment for each choice: .venv, .venv-onedl, .venv-torch2.14.1, ...
VENV := .venv$(STACK:%=-%)$(OPS:%=-%)$(if $(TORCH),-$(subst =,,$(notdir $(TORCH))))
VENV := $(VENV)$(if $(PYTHON),-$(notdir $(PYTHON)))
PY := $(VENV)/bin/python

# Each worker has one thread and takes 2 GB. Tests of a file share what it has built.
WORKERS ?= 2
PYTEST = $(PY) -m pytest -n $(WORKERS) --dist loadfile -rs

# Waiting threads spin by default, which costs a CPU that other programs use as well
# several times what it can gain on an idle one.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-all lint faults peers soak docs

help:
	@echo 'make demo    train EANet on a small data set, evaluate it, show pictures'
	@echo 'make test    lint, then the tests that are not slow: eight minutes on two cores'
	@echo 'make test-all  lint, then all tests (with WORKERS=8 in 8 processes, not in 2)'
	@echo 'make setup   create .venv and install everything, pinned; the others call it'
	@echo 'make lint    check style alone'
	@echo 'make soak    the long runs of docs/reliability.md (an hour or so)'
	@echo 'make docs    build the documentation as a site, in site/'
	@echo 'make faults  put 60 deliberate faults in, one by one: the tests find them'
	@echo "make peers   run mmseg's own tests on our backbones and head (downloads them)"
	@echo
	@echo 'After any of them, in an environment of its own each:'
	@echo 'TORCH=torch==2.14.1    another torch, or a wheel file of one'
	@echo 'STACK=onedl            on the maintained fork of OpenMMLab'
	@echo "OPS=compiled           with mmcv's compiled operators, not those of attn_plugins"
	@echo 'PYTHON=/path/to/python made with this one (3.10 to 3.13)'

setup:
	@tools/setup_env.sh '$(VENV)' all

demo:
	@tools/setup_env.sh '$(VENV)' demo
	$(PY) tools/demo.py

lint: setup
	$(PY) -m ruff check
	$(PY) -m ruff format --check

test: lint
	$(PYTEST) -m 'not slow'

test-all: lint
	$(PYTEST)

faults: setup
	$(PY) tests/faults/run.py

peers: setup
	$(PY) tests/peers/run.py

soak: setup
	$(PY) tools/soak.py crash eanet --length 80 --interval 5 \
	    --out docs/results/soak_crash_eanet.jsonl
	$(PY) tools/soak.py crash lesa --length 12 \
	    --out docs/results/soak_crash_lesa.jsonl
	$(PY) tools/soak.py memory --out docs/results/soak_memory.jsonl
	$(PY) tools/soak.py resume --out docs/results/soak_resume.jsonl
	SOAK=1 $(PY) -m pytest -q tests/test_packaging.py
	$(PY) -m pytest -q --hypothesis-profile soak \
	    tests/modules/test_properties.py tests/functional/test_properties.py

docs: setup
	$(PY) -m mkdocs build --strict
