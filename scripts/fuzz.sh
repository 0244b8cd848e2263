#!/usr/bin/env bash
# Fuzz what reads foreign bytes, each target for a number of seconds: binary plans and step arguments, weight packing, GGUF files.
# Needs clang++ and the Python package atheris. Inputs that reach something new are kept in build/fuzz/corpus, findings in
# build/fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
python=${PYTHON:-.venv/bin/python}
build=build/fuzz
sanitizers=address,undefined
flags="-fno-sanitize-recover=undefined -fno-omit-frame-pointer"
mkdir -p $build $build/findings

PYTHONPATH=tests "$python" tests/fuzz/seeds.py $build/corpus
{ CXX=clang++ cmake -S . -B $build -G Ninja -DTRITIUM_PYTHON=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS="-fsanitize=fuzzer-no-link,$sanitizers $flags" -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1 -DNDEBUG" &&
  cmake --build $build --target tritium_core --parallel "${WORKERS:-2}"; } >$build/build.log 2>&1 || { cat $build/build.log; exit 1; }

fuzz() { # target, command
  echo "$1: $seconds s"
  "${@:2}" $build/corpus/"$1" -artifact_prefix=$build/findings/"$1"- -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 \
    -print_final_stats=1 >$build/"$1".log 2>&1 || { tail -60 $build/"$1".log; echo "$1: a finding, see $build/findings"; exit 1; }
  sed -n 's/^stat::number_of_executed_units: */  executions: /p; s/^stat::new_units_added: */  new inputs: /p' $build/"$1".log
}

for target in program pack; do
  clang++ -std=c++20 -O1 -g1 -fsanitize=fuzzer,$sanitizers $flags -Icsrc tests/fuzz/${target}_fuzzer.cpp $build/libtritium_core.a \
    -pthread -o $build/$target
  fuzz $target $build/$target -max_len=8192
done
fuzz gguf "$python" tests/fuzz/gguf_fuzzer.py -max_len=16384 -rss_limit_mb=2048
