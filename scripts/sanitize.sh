#!/usr/bin/env bash
# The tests of kernels, bits, borders and threads on two further builds of the native core: one that stops at wrong memory accesses
# and undefined behavior, one that stops at data races. Needs gcc; the interpreter is not instrumented, so leaks are not looked for.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
jobs=${WORKERS:-2}
tests=(tests/parity/test_kernels.py tests/parity/test_same_bits.py tests/unit/test_native_plan.py tests/unit/test_pack.py
  tests/unit/test_thread_pool.py)

build() { # folder, options of the compiler
  mkdir -p "$1"
  { CXX=g++ cmake -S . -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS="$2 -fno-omit-frame-pointer" \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1 -DNDEBUG" -DPython_EXECUTABLE="$(realpath -s "$python")" &&
    cmake --build "$1" --target _native --parallel "$jobs"; } >"$1/build.log" 2>&1 || { cat "$1/build.log"; return 1; }
}

# JUnit for the gates. What a sanitizer says goes to the standard error that pytest must not capture. The reference's tests run no native code.
check() { # folder, run-time library, tests
  echo "$1"
  LD_PRELOAD="$(g++ -print-file-name="$2") $(g++ -print-file-name=libstdc++.so)" \
    "${fixed[@]}" "$python" -m pytest -q -p no:xdist --capture=sys --junitxml="$1/junit.xml" -k "not reference" --native "$1"/_native.*.so "${@:3}"
}

# Address-space randomization can move memory to where this version of the race detector wants its own.
fixed=()
if setarch -R true 2>/dev/null; then fixed=(setarch -R); fi

# detect_stack_use_after_return stays off: with it gcc 12 misaligns 64-byte vectors on its substitute for the stack.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=die_after_fork=0:exitcode=66
# NumPy's matrix products synchronize in ways that the race detector cannot see.
export OPENBLAS_NUM_THREADS=1

build build/asan "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
build build/tsan "-fsanitize=thread"
check build/asan libasan.so "${tests[@]}"
check build/tsan libtsan.so "${tests[@]:1}"
