#!/usr/bin/env bash
# For whoever has a GPU: builds the CUDA kernels for it, compares every one with float64, times them beside torch's, and
# runs what else the vendor's tools and the tests can tell. About ten minutes; the report is in the folder, and whole
# at any moment.
#   scripts/gpu_check.sh [FOLDER]              report.md and report.json; build/gpu_check if no folder is given
#   scripts/gpu_check.sh --rehearse [FOLDER]   every step without a GPU, on the tests' emulator
#   PYTHON=python3.12 scripts/gpu_check.sh     another interpreter than .venv's or python3
# Exits with 0 when all passed, 1 when something did not, 2 when there is no device.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3); fi
exec "$python" scripts/gpu_check.py "$@"
