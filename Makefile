# Needs Python 3.11, a C++20 compiler, cmake, ninja and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
BUILD := build/native
PIP_INSTALL := $(PY) -m pip install -q --disable-pip-version-check
WORKERS ?= 2
PROMPT ?= ROMEO:

.PHONY: run test bench docs fmt lint build stub wheel clean
.DEFAULT_GOAL := build

run: build
	$(VENV)/bin/tritium run -m demo "$(PROMPT)" -n 128 --temperature 0.8 --top-p 0.95 --seed 1

test: build
	$(PY) -X faulthandler -m pytest -q -n $(WORKERS)

bench: build
	$(VENV)/bin/tritium run -m demo "$(PROMPT)" -n 384 --ignore-eos >/dev/null

docs: build
	$(PY) scripts/generate_docs.py

fmt: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: build
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(PY) scripts/generate_docs.py --check

build: $(STAMP)
	@cmake --build $(BUILD) >$(BUILD)/build.log 2>&1 || { cat $(BUILD)/build.log; exit 1; }
	@cmake --install $(BUILD) --prefix $$($(PY) -c 'import sysconfig; print(sysconfig.get_path("platlib"))') >/dev/null

stub: build
	$(PY) -m nanobind.stubgen -q -m tritium._native -o src/tritium/_native.pyi

wheel:
	$(PYTHON) -m pip wheel --no-deps -w dist .

clean:
	rm -rf build dist $(STAMP)

# Build requirements have one home, pyproject.toml; without build isolation they must be there before the package is.
$(STAMP): pyproject.toml CMakeLists.txt Makefile
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import subprocess, sys, tomllib; subprocess.check_call([*"$(PIP_INSTALL)".split(), *tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]])'
	@$(PIP_INSTALL) --no-build-isolation -C build-dir=$(BUILD) -e '.[dev]'
	@touch $@
