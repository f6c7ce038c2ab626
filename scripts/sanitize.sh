#!/usr/bin/env bash
# Runs the tests of the operators under AddressSanitizer and UndefinedBehaviorSanitizer (g++ only), in a copy of its own under
# build/sanitize, so that the normal build stays as it is. The first report ends the run with a failure.
#   make sanitize PYTEST_ARGS="-k cross_attention"
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${VENV:-.venv}/bin/python")
copy=build/sanitize

ITM_FAST_SANITIZE=1 ITM_FAST_CUDA=0 "$python" setup.py -q build_ext --build-temp "$copy/temp" --build-lib "$copy/built"
rm -rf "$copy/source" && mkdir -p "$copy/source"
tar -c --exclude='*.so' --exclude=__pycache__ itm_fast tests csrc pyproject.toml | tar -x -C "$copy/source"
cp "$copy"/built/itm_fast/_C*.so "$copy/source/itm_fast/"
cd "$copy/source"

# The runtimes must be there before Python itself; libstdc++ too, or ASan can't find the function that throws exceptions.
cxx=${CXX:-c++}
runtimes=("$($cxx -print-file-name=libasan.so)" "$($cxx -print-file-name=libubsan.so)" "$($cxx -print-file-name=libstdc++.so.6)")
ldd itm_fast/_C*.so | grep libasan >/dev/null || { echo "sanitize: the build carries no AddressSanitizer" >&2; exit 1; }
# Leaks: Python and torch keep memory until the end. capture=sys: a report must reach the terminal although the process dies.
export LD_PRELOAD="${runtimes[*]}" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONDONTWRITEBYTECODE=1
folders=()
for folder in tests/ops tests/metrics tests/relevance/test_cider.py; do if [ -e "$folder" ]; then folders+=("$folder"); fi; done
((${#folders[@]})) || { echo "sanitize: no tests of the operators are there" >&2; exit 1; }
# pytrec_eval itself frees with free() what it allocated with new[].
exec "$python" -m pytest --capture=sys -p no:xdist -p no:cacheprovider \
  --deselect tests/metrics/test_judged_ranks.py::test_random_runs_as_pytrec_eval "${folders[@]}" "$@"
