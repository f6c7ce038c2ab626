# Everything from a fresh clone with Python >= 3.10 (with venv and headers) and g++ >= 10 or clang++ >= 12:
#   make demo     a small data set, training, evaluation, a page of results (no data is downloaded)
#   make test     the tests
#   make test-fast  two minutes' worth of them: no emulated kernels, torch.compile, learning, benches, browser, nor what is slow
#   make wheel    one file for every torch from 2.11 on, in dist/
# Variables: PYTHON=python3.12 (which interpreter), VENV=.venv (where), MAX_JOBS=1 (compilers at a time),
# TORCH_INDEX=https://download.pytorch.org/whl/cu130 (where torch comes from: without a GPU its CPU wheels, else PyPI),
# TEST_JOBS=4 (processes of the tests, one thread each; 0: one process with all threads), PYTEST_ARGS="-k recall".

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,https://download.pytorch.org/whl/cpu)
PYTEST_ARGS ?=
TEST_JOBS ?= $(shell nproc 2>/dev/null || echo 1)
BENCH ?= $(filter-out bench/_%,$(wildcard bench/*.py))

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
NVCC := $(firstword $(wildcard $(addsuffix /bin/nvcc,$(CUDA_HOME) /usr/local/cuda)) $(shell command -v nvcc))
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')

FORMATTED := $(SOURCES) $(wildcard bench/*.cpp tests/emu/*.cpp tests/emu/*.h tests/emu/*.cu)

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-open-clip build wheel bench lint format sanitize docs publish-docs lock clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile
	@echo "Targets: demo test test-fast test-open-clip build wheel bench lint format sanitize docs publish-docs lock clean"

# Stamps in the environment: a second `make` costs nothing, and removing the environment forgets them.
# Torch comes first and alone: no other package is to come from its index. There, 2.13.0 is 2.13.0+cpu.
$(VENV)/.demo: requirements/demo.in requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "itm-fast needs Python 3.10 or newer: make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and what the package runs on into $(VENV) (a minute or two; torch's CPU wheel has 200 MB)"
	@$(PIP) install --no-deps $(if $(TORCH_INDEX),--retries 2 --extra-index-url $(TORCH_INDEX)) $(shell grep ^torch== requirements/demo.in)
	@$(PIP) install -r requirements/demo.in -c requirements/dev.txt
	@touch $@

$(VENV)/.requirements: $(VENV)/.demo requirements/dev.txt
	@echo "Installing what tests and style need, requirements/dev.txt (less than a minute)"
	@$(PIP) install --no-compile -r requirements/dev.txt
	@touch $@

# -v because pip would hide the line that says what is built, and the compiler's messages.
define compile
	@$(1) $(BIN)/python -m pip install -v --no-build-isolation --no-deps -e . >build.log 2>&1 || { cat build.log; exit 1; }
	@grep -h '^ *itm-fast [0-9]' build.log || true
endef

$(VENV)/.built: $(VENV)/.demo setup.py pyproject.toml $(SOURCES)
	@echo "Compiling the operators (on two cores about a minute, three with the CUDA kernels)"
	$(call compile)
	@touch $@

# A CPU-only torch gets CUDA kernels where they are tested, and nowhere else.
$(VENV)/.kernels: $(VENV)/.demo setup.py pyproject.toml $(SOURCES)
	@echo "Compiling the operators and the CUDA kernels (on two cores about three minutes; without nvcc one)"
	$(call compile,ITM_FAST_CUBINS=build/cubins ITM_FAST_CUDA=$(or $(ITM_FAST_CUDA),$(if $(NVCC),1,auto)))
	@rm -f build/cubins/*.ii build/cubins/*.cudafe* build/cubins/*fatbin* build/cubins/*.ptx
	@touch $(VENV)/.built $@

build: $(VENV)/.built

demo: build
	$(BIN)/itm-fast demo

# By file, so that what a file has trained or compiled serves all of its tests (tests/conftest.py). Every process imports
# all tests: their bytecode is kept.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(if $(filter-out 0,$(TEST_JOBS)),OMP_NUM_THREADS=1 )$(BIN)/python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder

test: $(VENV)/.kernels $(VENV)/.requirements
	$(PYTEST) $(PYTEST_ARGS)

# open_clip with what it needs, beside the environment and for these tests alone: with a torchvision of another torch,
# transformers would not import either.
test-open-clip: $(VENV)/.built $(VENV)/.requirements
	@$(PIP) install --no-deps --upgrade --target build/open_clip $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r requirements/open_clip.txt
	PYTHONPATH=build/open_clip $(BIN)/python -c "import open_clip"
	PYTHONPATH=build/open_clip $(BIN)/python -m pytest tests/sources/test_encoders.py -k "open_clip or network" $(PYTEST_ARGS)

test-fast: $(VENV)/.kernels $(VENV)/.requirements
	$(PYTEST) -m "not emulated and not compiled and not learning and not bench and not browser and not slow" $(PYTEST_ARGS)

bench: build $(VENV)/.requirements
	-$(PIP) install -r requirements/bench.txt
	@for script in $(BENCH); do echo "== $$script"; $(BIN)/python $$script $(BENCH_ARGS) || exit 1; done

lint: $(VENV)/.requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: $(VENV)/.requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

# One for this Python, with CPU operators and CUDA kernels, for every torch from 2.11 on; checked as an index checks it.
wheel: $(VENV)/.demo
	$(PIP) install -r requirements/wheel.txt
	rm -rf dist build/lib*
	ITM_FAST_CUDA=$(or $(ITM_FAST_CUDA),$(if $(NVCC),1,auto)) $(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w dist .
	$(BIN)/twine check --strict dist/*.whl
	$(BIN)/check-wheel-contents dist/*.whl
	$(BIN)/auditwheel show dist/*.whl

sanitize: $(VENV)/.requirements
	VENV=$(VENV) scripts/sanitize.sh $(PYTEST_ARGS)

docs: build $(VENV)/.requirements
	$(BIN)/python -m pytest tests/test_docs.py
	$(PIP) install -r requirements/docs.txt
	$(BIN)/python scripts/docs_source.py build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q
	@echo "build/docs/site/index.html"

# The site as one version of several, on the branch gh-pages: make publish-docs VERSION=1.2 ALIAS=latest PUSH=--push
publish-docs: docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mike deploy $(PUSH) --update-aliases $(or $(VERSION),dev) $(ALIAS)
	$(if $(ALIAS),$(BIN)/mike set-default $(PUSH) $(ALIAS))

# The lock leaves out what torch's CUDA wheels pull in: which torch (CPU or CUDA) is the index's choice, and pip adds its needs.
lock:
	uv pip compile --universal --python-version 3.10 --no-header --no-annotate -q requirements/dev.in \
	  | awk '!/^(nvidia|cuda|triton)/ || /^nvidia-cuda-nvdisasm/' \
	  | { echo "# Lock of dev.in, made by \`make lock\`. torch brings its own CUDA packages where it is a CUDA build."; cat; } \
	  > requirements/dev.txt.new && mv requirements/dev.txt.new requirements/dev.txt

clean:
	rm -rf build dist *.egg-info build.log itm_fast/*.so $(VENV)/.built $(VENV)/.kernels
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
