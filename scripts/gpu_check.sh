#!/usr/bin/env bash
# For whoever has a GPU: builds the CUDA kernels for it, runs the tests of every operator on it, compute-sanitizer where it
# is installed, and benchmarks; writes one JSON and one Markdown report into benchmarks/results. No arguments; exits with
# 0 when all passed, 1 when something failed, 2 when there is no device. About ten minutes.
#   PYTHON=python3.12 scripts/gpu_check.sh     another interpreter than .venv's or python3; it needs torch with CUDA
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3); fi
exec "$python" scripts/gpu_check.py
