# Two commands: `make demo` and `make test`. `make help` lists the rest.
#
# PYTHON: the Python that .venv is made from; a torch that it has is kept. TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME, CXX:
# as in all of torch's builds (build_support/).

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip --disable-pip-version-check install --quiet

# ADD_PATH name.pth FOLDER: what is in FOLDER can be imported in .venv, after its own packages.
ADD_PATH := $(RUN) -c 'import pathlib, sys, sysconfig; \
    pathlib.Path(sysconfig.get_path("purelib"), sys.argv[1]).write_text(sys.argv[2] + "\n")'

TORCH   := torch==2.13.0
CUTLASS := nvidia-cutlass==4.2.0.0
# NVIDIA's packages ask for the newest of each other: only together, at one release, are they a toolkit.
CUDA    := nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
           nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build  ## set up, build, and run sum_reduce at real model shapes, on the GPU if there is one
	$(RUN) examples/demo.py

.PHONY: test
test: build  ## set up, build, and run the tests
	$(RUN) -m pytest -n 2 --dist loadgroup tests

.PHONY: generate
generate: $(VENV)/ready  ## specs/ to generated/
	$(RUN) -m generator

# Asked before each build, of what the build itself asks: a compiler that there was may be gone.
HAS_NVCC := import sys; from build_support.toolchain import find_cuda_compiler; sys.exit(find_cuda_compiler() is None)
.PHONY: nvcc
nvcc: $(VENV)/ready
	@[ -n "$${CUDA_HOME:-}$${CUDA_PATH:-}" ] || $(RUN) -c '$(HAS_NVCC)' \
	    || { echo "Fetching nvcc into $(VENV)"; $(PIP) --no-deps $(CUDA); }

.PHONY: build
build: generate nvcc  ## generate, and compile what changed into moe_cute/_C.abi3.so
	$(RUN) setup.py --quiet build_ext --inplace

.PHONY: check
check: $(VENV)/ready  ## ruff, clang-format, mypy, and whether generated/ is what specs/ say
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(wildcard csrc/*.cpp csrc/*.hpp csrc/*.cuh tests/build/*.cpp tests/build/*.hpp)
	$(RUN) -m mypy
	$(RUN) -m generator --check

.PHONY: bench
bench: build  ## every provider side by side: time, bandwidth, verdicts (benchmarks/)
	$(RUN) -m benchmarks run

.PHONY: tune
tune: build  ## measure launch shapes on this GPU into specs/tuning/
	$(RUN) -m benchmarks tune

.PHONY: wheel
wheel: generate nvcc  ## one wheel in dist/ for every torch from 2.10 and Python from 3.10 on
	rm -rf build/lib* build/bdist*
	export TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-All}"
	$(RUN) setup.py --quiet build_ext
	$(RUN) -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# Processes that share the GPU; the largest inputs want it for themselves.
GPU_WORKERS ?= 8
.PHONY: gpu-test
gpu-test: build/site/ready  ## the GPU tests, with PYTHON and its torch as they are: no .venv, no network
	export PYTHONPATH="$(CURDIR)/build/site$${PYTHONPATH:+:$$PYTHONPATH}"
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(PYTHON) -m pytest -n $(GPU_WORKERS) -m "gpu and not large" tests
	$(PYTHON) -m pytest -m "gpu and large" tests

# Memory of torch's cache is fresh to the sanitizer only if torch keeps none.
.PHONY: gpu-sanitize
gpu-sanitize:  ## every CUDA variant once under compute-sanitizer's memcheck and initcheck, after gpu-test's build
	export PYTORCH_NO_CUDA_MEMORY_CACHING=1
	export PYTHONPATH="$(CURDIR)/build/site$${PYTHONPATH:+:$$PYTHONPATH}"
	for tool in memcheck initcheck; do
	    compute-sanitizer --tool $$tool --error-exitcode 1 $(PYTHON) -m tests.every_variant
	done

.PHONY: clean
clean:  ## remove everything that was built, .venv too
	rm -rf $(VENV) build dist moe_cute/_C.abi3.so *.egg-info

# What a machine without a network lacks, for its Python: carry wheelhouse/ there, then `make gpu-test`.
GPU_PYTHON ?= 3.12
.PHONY: wheelhouse
wheelhouse:  ## fetch what gpu-test needs on a machine without a network (GPU_PYTHON=3.12)
	$(PYTHON) -m pip download --quiet --no-deps --dest wheelhouse $(CUTLASS)
	$(PYTHON) -m pip download --quiet --only-binary=:all: --python-version $(GPU_PYTHON) \
	    --platform manylinux2014_x86_64 --dest wheelhouse 'pydantic>=2.10' 'ninja>=1.11'

build/site/ready: $(wildcard wheelhouse/*.whl)
	mkdir -p build/site
	$(if $^,$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/site $^)
	touch $@

NO_PYTHON := "PYTHON: was '$(PYTHON)', which cannot be run; allowed: Python 3.10 or newer, as in make PYTHON=python3.11"
TOO_OLD := "PYTHON: was Python %d.%d; allowed: 3.10 or newer, as in make PYTHON=python3.11" % sys.version_info[:2]

# torch last and by itself: pip never has a reason to fetch another one.
$(VENV)/ready: pyproject.toml
	@echo "Setting up $(VENV)"
	@command -v "$(PYTHON)" >/dev/null || { echo $(NO_PYTHON) >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and $(TOO_OLD))'
	[ -e $@ ] || $(PYTHON) -m venv --clear $(VENV)  # one that never became ready may be of another Python
	$(PIP) --upgrade 'pip>=25.1'  # the first that installs dependency groups
	$(PIP) --group dev
	$(PIP) --no-deps $(CUTLASS)
	if found=$$($(PYTHON) -c 'from importlib.metadata import distribution; print(distribution("torch").locate_file(""))' 2>/dev/null)
	then $(ADD_PATH) torch.pth "$$found"
	else $(PIP) --no-warn-conflicts $(TORCH)
	fi
	# Built in place and imported from here: pip would compile in silence.
	$(ADD_PATH) moe_cute.pth "$(CURDIR)"
	touch $@
