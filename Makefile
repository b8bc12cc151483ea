# Every target makes its own environment (see scripts/setup_env.sh); real data are used where PHNET_DATA points to them.
PYTHON ?= python3
PHNET_DATA ?= $(wildcard $(abspath ../shared/data))
export PHNET_DATA
PY = .venv/bin/python

.PHONY: env demo test coverage check docs audit wheel clean

env:
	@PYTHON=$(PYTHON) bash scripts/setup_env.sh

demo: env
	rm -rf demo_out
	$(PY) -m phnet_monai demo demo_out

test: env
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

coverage: env
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term

check: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs: env
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "site/index.html; with search: $(PY) -m http.server --directory site"

# known vulnerabilities of what is installed; asks a service on the network, so it is no part of `check`
audit: env
	$(PY) -m pip_audit --strict --progress-spinner off --path "$$(cat .venv/lib/python3*/site-packages/_phnet_dependencies.pth)"

wheel: env
	$(PY) -m build --no-isolation --wheel

clean:
	rm -rf .venv dist demo_out site .mypy_cache .ruff_cache .pytest_cache .coverage
