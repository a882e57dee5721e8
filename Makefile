# make demo   sets everything up, lets you hear the model in the box, and has it learn an instrument: demo/index.html
# make test   sets everything up and passes the tests (about as long; no network once set up, no GPU)
# make lint   formatting, lint and types
# make setup  only sets up: Python 3.11 to 3.13 and the packages of requirements.lock in .venv
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo test lint setup lock clean

demo: setup
	$(RUN) -m wavenet_ae.demo

test: setup
	$(RUN) -m pytest

lint: setup
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

setup: .venv/ready

.venv/ready: requirements.lock setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	  f"this is Python {v[0]}.{v[1]}: requirements.lock is for 3.11 to 3.13; say make PYTHON=python3.11 ...")'
	@echo "setting up .venv (about 5 GB of packages, PyTorch with CUDA among them; a minute or two)"
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# needs uv (pip install uv); writes hashes, and no registry's address
lock:
	uv pip compile --quiet setup.py --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --constraint constraints.txt --output-file requirements.lock

clean:
	rm -rf .venv build dist demo *.egg-info
